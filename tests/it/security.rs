//! Who may do what: keys, passwords, certificates, allowed roots, users of the broker.

use crate::hosts::*;
use crate::support::*;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use std::fs;
use std::io::BufRead;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("write");
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
}

fn new_key(path: &Path) {
    let ran = run(treehaul().args(["key", "new"]).arg(path));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

fn some_files(dir: &Path, n: usize) {
    fs::create_dir_all(dir).expect("mkdir");
    (0..n).for_each(|i| fs::write(dir.join(format!("f{i}")), "x").expect("write"));
}

/// A worker, and what it says.
fn worker(command: &mut Command) -> (Worker, std::io::BufReader<std::process::ChildStderr>) {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut worker = Worker(command.spawn().expect("a worker starts"));
    let log = std::io::BufReader::new(worker.0.stderr.take().expect("a pipe"));
    (worker, log)
}

/// Reads until a line has the text; the line.
fn read_until(log: &mut impl BufRead, text: &str) -> String {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(log.read_line(&mut line).expect("text") > 0, "it ended without saying '{text}'");
    }
    line
}

#[test]
fn a_key_is_made_once_and_shown_to_nobody() {
    let s = Scratch::new();
    let file = s.join("fleet\x1bkey");
    let ran = run(treehaul().args(["key", "new"]).arg(&file));
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let key = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(key.len() == 65 && !ran.stdout.contains(key.trim()) && ran.stdout.contains("scp"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\x1b'), "{}", ran.stdout);
    let again = run(treehaul().args(["key", "new"]).arg(&file));
    assert_eq!((again.code, fs::read_to_string(&file).unwrap()), (2, key));
    let link = s.join("link");
    symlink(s.join("elsewhere"), &link).unwrap();
    assert_eq!(run(treehaul().args(["key", "new"]).arg(&link)).code, 2);
    assert!(!s.join("elsewhere").exists(), "a symlink is not followed");
}

#[test]
fn a_broker_elsewhere_needs_a_key_and_the_command_line_takes_no_password() {
    let s = Scratch::new();
    some_files(&s.join("src"), 1);
    let copy = |args: &[&str], env: &[(&str, &str)]| {
        let mut c = treehaul();
        c.arg("copy").args(args).args([s.join("src"), s.join("dst")]).envs(env.iter().copied());
        let ran = run(&mut c);
        assert!(!s.join("dst").exists() && !ran.stderr.contains("s3cret"), "{}", ran.stderr);
        (ran.code, ran.stderr)
    };
    // Port 1 answers nobody; 192.0.2.0/24 is nobody's, and is never asked.
    for (args, env, code, says) in [
        (&["--broker", "amqp://192.0.2.1/"][..], &[][..], 2, "treehaul key new"),
        (&["--broker", "amqp://192.0.2.1/"], &[], 2, "--insecure"),
        (&["--broker", "amqp://joe:s3cret@127.0.0.1:1/"], &[], 2, "--password-file"),
        (&["--broker", "amqp://guest:guest@192.0.2.1/", "--insecure"], &[], 2, "--password-file"),
        (&["--broker", "amqp://guest:guest@127.0.0.1:1/"], &[], 4, "cannot reach"),
        (&["--broker", "amqp://joe@127.0.0.1:1/"], &[("TREEHAUL_AMQP_PASSWORD", "s3cret")], 4, "joe:***@"),
        (&[], &[("TREEHAUL_BROKER", "amqp://joe:s3cret@127.0.0.1:1/")], 4, "cannot reach"),
    ] {
        let (ended, said) = copy(args, env);
        assert!(ended == code && said.contains(says), "{args:?}: {ended} {said}");
    }
    let alone = run(treehaul()
        .args(["copy", "--broker", ""])
        .args([s.join("src"), s.join("dst")])
        .env("TREEHAUL_BROKER", "amqp://127.0.0.1:1/"));
    assert_eq!(alone.code, 0, "an empty broker is none: {}", alone.stderr);
}

#[test]
fn key_and_password_files_that_others_can_read_are_not_used() {
    let s = Scratch::new();
    some_files(&s.join("src"), 1);
    let (key, password) = (s.join("key"), s.join("password"));
    new_key(&key);
    write(&password, "s3cret\nmore\n", 0o600);
    let copy = || {
        let mut c = treehaul();
        c.args(["copy", "--broker", "amqp://joe@127.0.0.1:1/", "--key-file"])
            .arg(&key)
            .arg("--password-file")
            .arg(&password);
        let ran = run(c.args([s.join("src"), s.join("dst")]));
        assert!(!s.join("dst").exists() && !ran.stderr.contains("s3cret"), "{}", ran.stderr);
        (ran.code, ran.stderr)
    };
    assert_eq!(copy().0, 4, "nobody answers there, so the files were read");
    for (file, mode) in [(&key, 0o640), (&key, 0o604), (&password, 0o644), (&password, 0o620)] {
        fs::set_permissions(file, PermissionsExt::from_mode(mode)).unwrap();
        let (code, said) = copy();
        assert!(code == 2 && said.contains("chmod"), "{mode:o}: {code} {said}");
        fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
    }
    assert_root();
    std::os::unix::fs::chown(&key, Some(1000), None).unwrap();
    let (code, said) = copy();
    assert!(code == 2 && said.contains("chown"), "{code} {said}");
    fs::remove_file(&key).unwrap();
    sh(&format!("mkfifo {}", q(&key)));
    let (code, said) = copy();
    assert!(code == 2 && said.contains("no regular file"), "{code} {said}");
}

#[test]
fn only_those_who_have_the_fleets_key_work_for_it() {
    let host = Host::new("keys");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    some_files(&source, 50);
    let (ours, theirs) = (s.join("ours"), s.join("theirs"));
    new_key(&ours);
    new_key(&theirs);
    let with = |name: &str, key: Option<&PathBuf>| {
        let mut c = treehaul();
        c.args(["worker", "--name", name, "--broker", &host.url]);
        key.map(|key| c.arg("--key-file").arg(key));
        worker(&mut c)
    };
    let (_other, mut other_log) = with("other", Some(&theirs));
    let (_keyless, mut keyless_log) = with("keyless", None);
    read_until(&mut other_log, "working");
    read_until(&mut keyless_log, "working");
    let mut job = host.copy(&source, &target);
    let job = job.env("TREEHAUL_KEY_FILE", &ours).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for log in [&mut other_log as &mut dyn BufRead, &mut keyless_log] {
        let mut line = String::new();
        while !line.contains("not written with this fleet's key") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended without a word");
        }
    }
    assert!(count(&target) <= 3, "nobody works yet");
    let (_right, _log) = with("right", Some(&ours));
    let output = job.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_identical(&source, &target);
}

#[test]
fn tls_with_client_certificates() {
    let host = Host::new("tls");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    some_files(&source, 50);
    let tls = PathBuf::from(std::env::var("TREEHAUL_TEST_TLS").expect("run `make test`, it makes certificates"));
    let amqps = std::env::var("TREEHAUL_TEST_AMQPS").expect("run `make test`, it starts RabbitMQ");
    let (server, _) = amqps.rsplit_once('/').unwrap();
    let (_, vhost) = host.url.rsplit_once('/').unwrap();
    let url = format!("{server}/{vhost}?auth_mechanism=external");
    // The certificate says who comes; the user's own password is never used.
    let ctl = std::env::var("TREEHAUL_TEST_RABBITMQCTL").expect("run `make test`, it starts RabbitMQ");
    sh(&format!("head -c 16 /dev/urandom | od -An -tx1 | {ctl} -q add_user treehaul-client"));
    sh(&format!("{ctl} -q set_permissions -p {vhost} treehaul-client '.*' '.*' '.*'"));
    let command = |args: &[&str], ca: &str, cert: bool| {
        let mut c = treehaul();
        c.args(args).args(["--broker", &url]).env("TREEHAUL_AMQP_CA", tls.join(ca));
        if cert {
            c.env("TREEHAUL_AMQP_CERT", tls.join("client.pem")).env("TREEHAUL_AMQP_CERT_KEY", tls.join("client.key"));
        }
        c
    };
    let _worker = worker(&mut command(&["worker", "--name", "tls"], "ca.pem", true));
    let ran = run(command(&["copy", "--json"], "ca.pem", true).args([&source, &target]));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);

    let refused = |ca: &str, cert: bool| {
        let ran = run(command(&["copy"], ca, cert).args([&source, &s.join("other")]));
        assert!(ran.code == 4 && !s.join("other").exists(), "{} {}", ran.code, ran.stderr);
        ran.stderr
    };
    let without = refused("ca.pem", false);
    assert!(without.contains("client certificate") && without.contains("TREEHAUL_AMQP_CERT_KEY"), "{without}");
    let wrong = refused("other-ca.pem", true);
    assert!(wrong.contains("UnknownIssuer") && wrong.contains("TREEHAUL_AMQP_CA"), "{wrong}");
    for (ca, cert, key, says) in [
        ("client.key", "client.pem", "client.key", "no certificate"),
        ("ca.pem", "client.pem", "client.pem", "no private key"),
        ("ca.pem", "client.pem", "", "without its key"),
        ("none.pem", "client.pem", "client.key", "none.pem"),
    ] {
        let mut c = command(&["copy"], ca, false);
        c.env("TREEHAUL_AMQP_CERT", tls.join(cert));
        c.env("TREEHAUL_AMQP_CERT_KEY", if key.is_empty() { PathBuf::new() } else { tls.join(key) });
        let ran = run(c.args([&source, &target]));
        assert!(ran.code == 2 && ran.stderr.contains(says), "{says}: {} {}", ran.code, ran.stderr);
    }
}

#[test]
fn the_configuration_file_is_used_and_shown_without_secrets() {
    let host = Host::new("config");
    let s = Scratch::new();
    let (source, target, config, key) = (s.join("src"), s.join("dst"), s.join("config.toml"), s.join("key"));
    some_files(&source, 30);
    new_key(&key);
    let (data, key_path) = (s.path().display(), key.display());
    let text = format!(
        "broker = '{}'\nkey_file = '{key_path}'\nname = 'from-file'\ndir_actors = 3\nallowed_roots = ['{data}']\n",
        host.url
    );
    write(&config, &text, 0o600);
    let show = |c: &mut Command| {
        let ran = run(c.args(["config", "show", "--config"]).arg(&config).args(["--queue-type", "classic"]));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout
            .lines()
            .map(|l| l.split("  ").filter(|w| !w.is_empty()).map(|w| w.trim().to_owned()).collect())
            .collect::<Vec<Vec<String>>>()
    };
    let shown = show(treehaul().env("TREEHAUL_NAME", "from-env").env("TREEHAUL_AMQP_PASSWORD", "s3cret"));
    let row =
        |name: &str| shown.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("no row {name}: {shown:?}"));
    let file = format!("file {}", config.display());
    assert_eq!(row("broker")[1..], [host.url.replace(":guest@", ":***@"), file.clone()]);
    assert_eq!(row("name")[1..], ["from-env", "environment TREEHAUL_NAME"]);
    assert_eq!(row("queue_type")[1..], ["classic", "flag --queue-type"]);
    assert_eq!(row("dir_actors")[1..], ["3", &file]);
    assert_eq!(row("allowed_roots")[1..], [format!("[{data}]"), file]);
    assert_eq!(row("ca")[1..], ["not set", "default"]);
    assert_eq!(row("TREEHAUL_AMQP_PASSWORD")[1..], ["***", "environment TREEHAUL_AMQP_PASSWORD"]);

    let configured = |args: &[&str]| {
        let mut c = treehaul();
        c.args(args).env("TREEHAUL_CONFIG", &config);
        c
    };
    let (worker, mut log) = worker(&mut configured(&["worker"]));
    assert!(read_until(&mut log, "working").contains("from-file"));
    let ran = run(configured(&["copy", "--json"]).args([&source, &target]));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);
    assert_eq!(worker.stop(), Some(0));

    write(&config, "borker = 'amqp://x'\n", 0o600);
    for args in [&["config", "show"][..], &["worker"], &["copy", "/a", "/b"]] {
        let ran = run(&mut configured(args));
        assert!(ran.code == 2 && ran.stderr.contains("'broker'"), "{args:?}: {} {}", ran.code, ran.stderr);
    }
}

#[test]
fn a_worker_works_below_its_allowed_roots_alone() {
    let host = Host::new("allowed");
    let s = Scratch::new();
    let (source, target, config) = (s.join("open/src"), s.join("closed/dst"), s.join("config.toml"));
    some_files(&source, 40);
    fs::create_dir_all(s.join("closed")).unwrap();
    // The way to the target begins where it is allowed.
    symlink(s.join("closed"), s.join("open/way")).unwrap();
    write(&config, &format!("allowed_roots = ['{}']\n", s.join("open").display()), 0o644);
    let (_worker, mut log) =
        worker(treehaul().args(["worker", "--name", "strict", "--broker", &host.url, "--config"]).arg(&config));
    read_until(&mut log, "working");
    let through = s.join("open/way/dst");
    let job = host.copy(&source, &through).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let said = read_until(&mut log, "allowed_roots");
    assert!(said.contains("open/way/dst") && said.contains(&*target.to_string_lossy()), "{said}");
    assert!(count(&target) <= 3, "only the job's mark is in the target");
    let _free = host.worker("free");
    let output = job.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("strict") && said.contains("allowed_roots"),
        "the summary names the node that refused: {said}"
    );
    assert_identical(&source, &target);

    drop(_free);
    let inside = s.join("open/dst");
    let ran = run(host.pass("sync", &source, &inside).args(["--delete", "--allow-empty-source", "--trash"]).arg({
        fs::create_dir_all(s.join("open/trash")).unwrap();
        s.join("open/trash")
    }));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &inside);
    fs::remove_file(source.join("f7")).unwrap();
    let mut delete = host.pass("delete", &source, &inside);
    let ran = run(delete.arg("--trash").arg(s.join("open/trash")));
    assert_eq!((ran.code, s.join("open/trash/f7").exists()), (0, true), "{}{}", ran.stdout, ran.stderr);
}

/// What a user of the broker meets.
fn as_user<T>(url: &str, act: impl AsyncFnOnce(&lapin::Connection) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default());
        let connection = connection.await.expect("it is let in");
        act(&connection).await
    })
}

#[test]
fn the_users_that_the_script_makes_can_do_their_work_and_nothing_else() {
    let host = Host::new("users");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    some_files(&source, 60);
    let ctl = std::env::var("TREEHAUL_TEST_RABBITMQCTL").expect("run `make test`, it starts RabbitMQ");
    let (server, vhost) = host.url.rsplit_once('/').unwrap();
    let init = || {
        let mut c = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/ops/rabbitmq-init.sh"));
        let ran = run(c.arg(vhost).env("RABBITMQCTL", &ctl).env("TREEHAUL_PASSWORD_DIR", s.join("etc")));
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        ran.stdout
    };
    let said = init();
    let file = |user: &str| s.join(format!("etc/{user}.password"));
    let password = |user: &str| fs::read_to_string(file(user)).unwrap().trim().to_owned();
    let before = ["treehaul-worker", "treehaul-control"].map(password);
    assert!(before.iter().all(|p| p.len() == 64 && !said.contains(p.as_str())), "{said}");
    assert_eq!(fs::metadata(file("treehaul-worker")).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(init(), format!("the virtual host {vhost} is ready\n"), "the second time there is nothing to say");
    assert_eq!(["treehaul-worker", "treehaul-control"].map(password), before);

    let address = server.rsplit_once('@').unwrap().1;
    let as_role = |user: &str, args: &[&str]| {
        let mut c = treehaul();
        c.args(args).args(["--broker", &format!("amqp://{user}@{address}/{vhost}"), "--password-file"]).arg(file(user));
        c
    };
    let (worker, mut log) = worker(&mut as_role("treehaul-worker", &["worker", "--name", "least"]));
    read_until(&mut log, "working");
    for queue_type in ["quorum", "classic"] {
        let target = s.join(queue_type);
        let mut c = as_role("treehaul-control", &["copy", "--json", "--queue-type", queue_type]);
        let ran = run(c.args([&source, &target]));
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        assert_identical(&source, &target);
    }
    assert_eq!(host.queues_of("treehaul.").iter().filter(|q| q.contains(".dirs")).count(), 0);
    assert_eq!(worker.stop(), Some(0));
    drop(target);

    for (user, forbidden) in
        [("treehaul-worker", &["other", "treehaul"][..]), ("treehaul-control", &["other", "treehaul.control.0123"])]
    {
        as_user(&format!("amqp://{user}:{}@{address}/{vhost}", password(user)), async |connection| {
            for name in forbidden {
                let channel = connection.create_channel().await.unwrap();
                let declared =
                    channel.queue_declare((*name).into(), QueueDeclareOptions::default(), FieldTable::default());
                let refused = declared.await.expect_err("it is refused").to_string();
                assert!(
                    refused.contains("ACCESS_REFUSED") || refused.contains("ACCESS-REFUSED"),
                    "{user} {name}: {refused}"
                );
            }
        });
    }
    // Nor read what somebody else has made there.
    as_user(&host.url, async |connection| {
        let channel = connection.create_channel().await.unwrap();
        channel.queue_declare("other".into(), QueueDeclareOptions::default(), FieldTable::default()).await.unwrap();
    });
    as_user(&format!("amqp://treehaul-worker:{}@{address}/{vhost}", password("treehaul-worker")), async |connection| {
        let channel = connection.create_channel().await.unwrap();
        let read =
            channel.basic_consume("other".into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
        assert!(read.await.is_err());
    });
}
