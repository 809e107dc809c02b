use super::*;
use std::os::unix::fs::PermissionsExt;

fn load(text: &str, flags: &[(&'static Key, &str)], env: &[(&str, &str)]) -> Result<Settings, String> {
    load_mode(text, 0o600, flags, env)
}

fn load_mode(text: &str, mode: u32, flags: &[(&'static Key, &str)], env: &[(&str, &str)]) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    let flags: Vec<Flag> = flags.iter().map(|(key, value)| (*key, OsString::from(value))).collect();
    let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
    Settings::load_with(Some(&path), &flags, env).map_err(|e| format!("{e:#}"))
}

fn why(text: &str) -> String {
    load(text, &[], &[]).err().unwrap_or_default()
}

#[test]
fn every_key_is_in_the_table_and_says_its_name_once() {
    for key in KEYS {
        assert!(key.env.is_empty() || key.env.starts_with("TREEHAUL_"), "{key:?}");
        let same = KEYS.iter().filter(|k| (k.name, k.env) == (key.name, key.env));
        assert_eq!(same.count(), 1, "{key:?}");
    }
    for key in [
        &BROKER,
        &QUEUES,
        &KEY_FILE,
        &AMQP_USER,
        &AMQP_PASSWORD,
        &PASSWORD_FILE,
        &CA,
        &CERT,
        &CERT_KEY,
        &NAME,
        &DIR_ACTORS,
        &FILE_ACTORS,
        &ALLOWED_ROOTS,
    ] {
        assert!(KEYS.iter().any(|k| (k.name, k.env) == (key.name, key.env)), "{key:?}");
    }
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let text = "name = 'file'\ndir_actors = 7";
    let env = [("TREEHAUL_NAME", "env")];
    let name = |s: Settings| (s.text(&NAME).unwrap().to_owned(), s.origin(&NAME).clone());
    let all = load(text, &[(&NAME, "flag")], &env).unwrap();
    assert_eq!(name(all), ("flag".to_owned(), Origin::Flag("--name")));
    assert_eq!(name(load(text, &[], &env).unwrap()), ("env".to_owned(), Origin::Env("TREEHAUL_NAME")));
    let file = load(text, &[], &[]).unwrap();
    assert_eq!(file.count(&DIR_ACTORS), Some(7));
    assert!(matches!(name(file), (text, Origin::File(_)) if text == "file"));
    let nothing = load("", &[], &[]).unwrap();
    assert_eq!((nothing.text(&QUEUES), nothing.origin(&QUEUES)), (Some("quorum"), &Origin::Default));
    assert_eq!((nothing.text(&BROKER), nothing.list(&ALLOWED_ROOTS)), (None, None));
}

#[test]
fn what_is_empty_is_set_to_nothing() {
    let text = "broker = 'amqp://broker.example/'";
    let settings = load(text, &[], &[("TREEHAUL_BROKER", "")]).unwrap();
    assert_eq!((settings.text(&BROKER), settings.show(&BROKER)), (None, "not set".to_owned()));
    assert_eq!(load("allowed_roots = []", &[], &[]).unwrap().list(&ALLOWED_ROOTS), Some(Vec::new()));
}

#[test]
fn a_key_that_is_unknown_names_the_nearest() {
    for (wrong, right) in [
        ("borker", "broker"),
        ("allowed-roots", "allowed_roots"),
        ("dir_actor", "dir_actors"),
        ("keyfile", "key_file"),
        ("password", "password_file"),
        ("nmae", "name"),
    ] {
        let said = why(&format!("{wrong} = 'x'"));
        assert!(said.contains(&format!("'{wrong}'")) && said.contains(&format!("'{right}'")), "{said}");
    }
    assert!(why("'' = 'x'").contains("there is no key ''"));
    assert!(why("[broker]\nx = 1").contains("broker"));
}

#[test]
fn what_is_malformed_is_named_by_place_and_not_repeated() {
    for (text, says) in [
        ("name = 'x'\nbroker = amqp://joe:s3cret@b/", "line 2"),
        ("name = 'a'\nname = 'b'", "line 2"),
        ("key_file = 'relative'", "absolute"),
        ("allowed_roots = ['/a', 'b']", "absolute"),
        ("allowed_roots = ['/a', 1]", "strings"),
        ("name = ['a', 'b']", "one value"),
        ("name = true", "boolean"),
        ("queue_type = 's3cret'", "quorum or classic"),
        ("dir_actors = 0", "1 to 4096"),
        ("dir_actors = 5000", "1 to 4096"),
        ("dir_actors = -1", "1 to 4096"),
    ] {
        let said = why(text);
        assert!(said.contains(says), "{text}: {said}");
        assert!(text.contains("queue_type") || !said.contains("s3cret"), "{said}");
    }
}

#[test]
fn a_file_that_others_can_change_or_that_shows_them_a_password_is_refused() {
    assert!(load_mode("name = 'x'", 0o644, &[], &[]).is_ok());
    assert!(load_mode("name = 'x'", 0o664, &[], &[]).err().unwrap().contains("chmod go-w"));
    let url = "broker = 'amqp://joe:s3cret@broker.example/'";
    let said = load_mode(url, 0o644, &[], &[]).err().unwrap();
    assert!(said.contains("chmod 600") && !said.contains("s3cret"), "{said}");
    let shown = load(url, &[], &[]).unwrap().show(&BROKER);
    assert_eq!(shown, "amqp://joe:***@broker.example/");
    let env = [("TREEHAUL_AMQP_PASSWORD", "s3cret"), ("TREEHAUL_BROKER", "joe:s3cret@broker")];
    let settings = load("", &[], &env).unwrap();
    assert_eq!((settings.show(&AMQP_PASSWORD), settings.show(&BROKER)), ("***".to_owned(), "***".to_owned()));
}

#[test]
fn only_a_file_that_is_named_must_exist() {
    let none = |_: &str| None;
    assert!(Settings::load_with(Some(Path::new("/nonexistent/c.toml")), &[], none).is_err());
    let named = |name: &str| (name == ENV_FILE).then(|| OsString::from("/nonexistent/c.toml"));
    assert!(Settings::load_with(None, &[], named).is_err());
    let switched_off = |name: &str| (name == ENV_FILE).then(OsString::new);
    assert!(Settings::load_with(None, &[], switched_off).is_ok());
}
