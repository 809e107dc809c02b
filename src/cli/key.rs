//! `treehaul key`, and the file that it makes.
//!
//! Invariant: a key is in its file and in memory, never in arguments, logs or messages.

use super::secret::{self, shown};
use super::{print_result, refuse, start_logging};
use crate::exit_code::ExitCode;
use anyhow::{Context, ensure};
use clap::Subcommand;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// What is done about keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a new key in a file that does not exist yet
    New {
        /// The file
        file: PathBuf,
    },
}

/// Runs the command.
pub fn run(command: KeyCommand) -> ExitCode {
    start_logging(0, true);
    let KeyCommand::New { file } = command;
    match make(&file) {
        Ok(()) => {
            print_result(&advice(&file));
            ExitCode::Complete
        }
        Err(e) => refuse(&e),
    }
}

fn advice(file: &Path) -> String {
    let file = shown(file);
    format!(
        "made {file}\n\
         Copy it to every node that works for the fleet or submits jobs to it, readable by root alone:\n    \
         scp -p {file} NODE:{file}\n\
         and name it there by --key-file, TREEHAUL_KEY_FILE, or key_file in /etc/treehaul/config.toml.\n\
         Who has it can have workers do anything that their allowed_roots let them do."
    )
}

/// Writes a new key to a file that is made for it.
fn make(path: &Path) -> anyhow::Result<()> {
    let mut key = [0; KEY_BYTES];
    let filled = rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty());
    ensure!(filled.context("the system gives no random numbers")? == KEY_BYTES, "the system gives no random numbers");
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = made.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => anyhow::anyhow!("{} is there: a key is never written over", shown(path)),
        _ => anyhow::anyhow!("cannot make {}: {e}", shown(path)),
    })?;
    let text: String = key.iter().map(|b| format!("{b:02x}")).chain(["\n".to_owned()]).collect();
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(e) = written {
        // A part of a key must not stay; it is ours alone.
        let _ = std::fs::remove_file(path);
        return Err(e).with_context(|| format!("cannot write {}", shown(path)));
    }
    Ok(())
}

/// Reads a key.
///
/// # Errors
/// A message that names the file and the way out, and nothing of what is in it.
pub fn read(path: &Path) -> anyhow::Result<[u8; KEY_BYTES]> {
    let bytes = secret::read(path)?;
    let digits = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let no_key =
        || format!("{} holds no key, which is 64 hexadecimal digits: make one with `treehaul key new`", shown(path));
    ensure!(digits.len() == 2 * KEY_BYTES, no_key());
    let mut key = [0; KEY_BYTES];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |c: u8| char::from(c).to_digit(16);
        let (high, low) = value(pair[0]).zip(value(pair[1])).with_context(no_key)?;
        *byte = (high * 16 + low) as u8;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_key_reads_back_differs_from_others_and_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        make(&one).unwrap();
        make(&two).unwrap();
        assert_eq!(std::fs::metadata(&one).unwrap().permissions().mode() & 0o7777, 0o600);
        let text = std::fs::read_to_string(&one).unwrap();
        assert_eq!(text.len(), 65);
        let key = read(&one).unwrap();
        assert_eq!(text.trim_end(), blake3::Hash::from(key).to_hex().as_str());
        assert_ne!(key, read(&two).unwrap());
        assert!(format!("{:#}", make(&one).unwrap_err()).contains("never written over"));
        assert_eq!(read(&one).unwrap(), key);
    }

    #[test]
    fn a_file_that_is_no_key_or_not_ours_alone_is_refused_without_a_word_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let good = "0123456789abcdefABCDEF0000000000".repeat(2);
        let why = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            read(&path).err().map(|e| format!("{e:#}")).unwrap_or_default()
        };
        assert_eq!(why(&good, 0o600), "");
        assert_eq!(why(&format!("{good}\n"), 0o400), "");
        for (text, mode, says) in [
            (good.clone(), 0o640, "chmod 600"),
            (good.clone(), 0o604, "chmod 600"),
            (good.clone(), 0o620, "chmod go-w"),
            (good[1..].to_owned(), 0o600, "key new"),
            (format!("{good}0"), 0o600, "key new"),
            (format!("{good}\n\n"), 0o600, "key new"),
            (good.replace('c', "x"), 0o600, "key new"),
            (good.replace("01", "+1"), 0o600, "key new"),
            (String::new(), 0o600, "key new"),
        ] {
            let said = why(&text, mode);
            assert!(said.contains(says) && !said.contains("abcdef"), "{mode:o}: {said}");
        }
        assert!(format!("{:#}", read(dir.path()).unwrap_err()).contains("no regular file"));
        assert!(read(&dir.path().join("none")).is_err());
    }
}
