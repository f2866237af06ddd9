//! The layers of the configuration: which one wins, what is refused, and what people are shown.
#![expect(clippy::disallowed_methods, reason = "real configuration files are what is tested")]

use std::path::Path;

use carillon_node::config::{Builder, Config, ConfigError, Source};
use carillon_node::exit::Fatal;
use serde::Deserialize;

const GATEWAY: &str = r#"
[gateway]
# Where clients connect.
# Loopback, so that nothing is open by accident.
listen = "127.0.0.1:8080"

# Threads that own sockets; 0 is one per core.
shards = 0

# Origins of browsers that may connect.
origins = []

[gateway.tuning]
# A share of something.
ratio = 0.5
# Whether to.
eager = false

[auth]
# Something nobody may see.
#: secret
pepper = ""

# Keys of tokens.
#: tables secret
keys = []
"#;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Gateway {
    listen: String,
    shards: u16,
    origins: Vec<String>,
    tuning: Tuning,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Tuning {
    ratio: f64,
    eager: bool,
}

fn builder() -> Builder {
    Config::builder()
        .defaults("gateway", GATEWAY)
        .unwrap()
        .defaults("node", "# A place.\nplace = \"here\"\n")
        .unwrap()
}

fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("carillon.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

const NONE: [(&str, &str); 0] = [];

#[test]
fn defaults_alone_are_a_configuration() {
    let config = builder().build().unwrap();
    let gateway: Gateway = config.section("gateway").unwrap();
    let tuning = Tuning { ratio: 0.5, eager: false };
    assert_eq!(gateway, Gateway { listen: "127.0.0.1:8080".into(), shards: 0, origins: vec![], tuning });
    assert_eq!(config.text("place"), Some("here"));
}

#[test]
fn set_wins_over_environment_over_file_over_preset_over_default_in_any_order_of_calls() {
    let (_dir, path) = file("gateway.listen = \"file\"\n[gateway.tuning]\nratio = 2\n");
    let environment = [
        ("CARILLON_GATEWAY__LISTEN", "environment"),
        ("CARILLON_GATEWAY__TUNING__EAGER", "true"),
        ("CARILLON_HOME", "not a key: it has no two underscores"),
        ("HOME", "/root"),
        ("OTHER_GATEWAY__LISTEN", "not ours"),
    ];
    let all = |steps: &[&str]| {
        let mut builder = builder();
        for &step in steps {
            builder = match step {
                "preset" => builder.preset("carillon router", "gateway.listen", "preset"),
                "file" => builder.file(&path).unwrap(),
                "env" => builder.env(environment),
                set => builder.set(set).unwrap(),
            };
        }
        let config = builder.build().unwrap();
        (config.text("gateway.listen").unwrap().to_owned(), config)
    };
    assert_eq!(all(&["preset"]).0, "preset");
    assert_eq!(all(&["file", "preset"]).0, "file");
    assert_eq!(all(&["env", "file", "preset"]).0, "environment");
    let (listen, config) = all(&["gateway.listen=first", "gateway.listen=a=b", "env", "file", "preset"]);
    assert_eq!(listen, "a=b", "the later --set, cut at the first equals sign");

    let tuning: Tuning = config.section("gateway.tuning").unwrap();
    assert_eq!(tuning, Tuning { ratio: 2.0, eager: true }, "an integer is a number, too");
    assert_eq!(config.source("gateway.listen"), Some(&Source::Set));
    assert_eq!(config.source("gateway.tuning.ratio"), Some(&Source::File(path)));
    assert_eq!(config.source("gateway.shards"), Some(&Source::Default("gateway")));
}

#[test]
fn texts_are_read_by_the_type_of_the_default() {
    let config = builder()
        .set("gateway.origins=https://a.example, https://b.example,")
        .unwrap()
        .set("gateway.shards=4")
        .unwrap()
        .set("gateway.listen=8080")
        .unwrap()
        .build()
        .unwrap();
    let gateway: Gateway = config.section("gateway").unwrap();
    assert_eq!(gateway.origins, ["https://a.example", "https://b.example"]);
    assert_eq!((gateway.shards, gateway.listen.as_str()), (4, "8080"));
    let empty = builder().set("gateway.origins=").unwrap().build().unwrap();
    assert_eq!(empty.section::<Gateway>("gateway").unwrap().origins, Vec::<String>::new());
}

#[track_caller]
fn refuses(builder: Result<Builder, ConfigError>, expected: &str) {
    let error = builder.and_then(Builder::build).unwrap_err();
    assert_eq!(error.to_string(), expected);
    let fatal = Fatal::from(error);
    assert_eq!((fatal.status, fatal.sentence.lines().count()), (2, 1));
}

#[test]
fn an_unknown_key_names_the_nearest_one_and_where_it_came_from() {
    let tail = "; carillon config print shows all";
    refuses(
        builder().set("gateway.lisen=1"),
        &format!("unknown key gateway.lisen (--set): the nearest one is gateway.listen{tail}"),
    );
    refuses(
        Ok(builder().env([("CARILLON_GATEWAY__SHARD", "1")])),
        &format!(
            "unknown key gateway.shard (environment CARILLON_GATEWAY__SHARD): the nearest one is gateway.shards{tail}"
        ),
    );
    for text in ["[gatewya]\nshards = 1\n", "gatewya.shards = 1\n"] {
        let (_dir, path) = file(text);
        refuses(
            builder().file(&path),
            &format!(
                "unknown key gatewya.shards (file {}): the nearest one is gateway.shards{tail}",
                path.display()
            ),
        );
    }
    let (_dir, path) = file("[gateway]\n[gateway.tuning]\n");
    builder().file(&path).unwrap().build().expect("a section without keys says nothing");
    let (_dir, path) = file("[typo]\n");
    assert!(builder().file(&path).unwrap().build().is_err(), "but it has to exist");
    refuses(builder().set("gateway.shards"), "--set gateway.shards lacks a value: write --set key=value");
}

#[test]
fn a_wrong_type_names_key_value_type_and_source() {
    refuses(builder().set("gateway.shards=many"), "gateway.shards = \"many\" (--set) is not an integer");
    refuses(
        Ok(builder().env([("CARILLON_GATEWAY__TUNING__EAGER", "yes")])),
        "gateway.tuning.eager = \"yes\" (environment CARILLON_GATEWAY__TUNING__EAGER) is not true or false",
    );
    for (text, expected) in [
        ("gateway.listen = 8080", "gateway.listen = 8080 (file PATH) is not a text"),
        ("gateway.shards = 1.5", "gateway.shards = 1.5 (file PATH) is not an integer"),
        (
            "gateway.origins = [1]",
            "gateway.origins = [1] (file PATH) is not a list of texts (after --set: separated by commas)",
        ),
        ("gateway.listen.port = 1", "gateway.listen = { port = 1 } (file PATH) is not a text"),
    ] {
        let (_dir, path) = file(text);
        refuses(builder().file(&path), &expected.replace("PATH", &path.display().to_string()));
    }
}

#[test]
fn a_value_its_reader_refuses_names_the_key_and_the_source() {
    let config = builder().set("gateway.shards=-1").unwrap().build().unwrap();
    let error = config.section::<Gateway>("gateway").unwrap_err();
    assert_eq!(
        error.to_string(),
        "gateway.shards (--set) cannot be used: invalid value: integer `-1`, expected u16"
    );
}

#[derive(Debug, Deserialize)]
struct Auth {
    keys: Vec<KeyTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyTable {
    kid: String,
    secret: String,
}

#[test]
fn a_key_declared_as_tables_takes_them_from_a_file_and_from_nowhere_else() {
    let (_dir, path) =
        file("[[auth.keys]]\nkid = \"a\"\nsecret = \"x\"\n[[auth.keys]]\nkid = \"b\"\nsecret = \"y\"\n");
    let config = builder().file(&path).unwrap().build().unwrap();
    let auth: Auth = config.section("auth").unwrap();
    assert_eq!(auth.keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(auth.keys.iter().map(|key| key.secret.as_str()).collect::<Vec<_>>(), ["x", "y"]);
    refuses(
        builder().set("auth.keys=a"),
        "auth.keys = (secret) (--set) is not an array of tables, which only a file can hold",
    );
}

#[test]
fn a_secret_is_in_no_print_and_in_no_error() {
    let secret = "hunter2";
    let (_dir, path) = file(&format!("[[auth.keys]]\nkid = \"a\"\nsecret = \"{secret}\"\n"));
    let set = format!("auth.pepper={secret}");
    let config = builder().file(&path).unwrap().set(&set).unwrap().build().unwrap();
    let printed = config.print(true);
    assert!(!printed.contains(secret), "{printed}");
    assert!(printed.contains("auth.pepper = (secret)") && printed.contains("auth.keys = (secret)"));
    let plain = builder().build().unwrap().print(false);
    assert!(plain.contains("auth.pepper = \"\""), "that none is set is no secret: {plain}");

    // As a number, so that the words of serde would quote it.
    let (_dir, path) = file("[[auth.keys]]\nkid = \"a\"\nsecret = 20262026\n");
    let config = builder().file(&path).unwrap().build().unwrap();
    let sentence = config.section::<Auth>("auth").unwrap_err().to_string();
    assert!(
        sentence.starts_with("auth.keys (file") && sentence.ends_with("its shape or value is wrong"),
        "{sentence}"
    );

    for (text, told) in [
        (format!("auth.pepper = [\"{secret}\"]"), "auth.pepper = (secret)"),
        (format!("[[auth.keys]]\nkid = \"a\"\nsecret = {{ a = \"{secret}\" }}"), "auth.keys (file"),
        (format!("[[auth.keys]]\nkid = \"a\"\nsecrte = \"{secret}\""), "unknown field `secrte`"),
        (format!("[[auth.keys]]\nsecret = \"{secret}"), "line 2: "),
    ] {
        let (_dir, path) = file(&text);
        let result = builder().file(&path).and_then(Builder::build).and_then(|it| it.section::<Auth>("auth"));
        let sentence = result.unwrap_err().to_string();
        assert!(sentence.contains(told) && !sentence.contains(secret), "{text}: {sentence}");
    }
}

#[test]
fn print_is_aligned_teaches_and_can_be_read_back() {
    let config = builder().set("gateway.shards=2").unwrap().build().unwrap();
    let printed = config.print(false);
    let columns: Vec<usize> = printed.lines().map(|line| line.find("  # ").unwrap()).collect();
    assert!(printed.contains("gateway.shards = 2") && printed.contains("# --set"), "{printed}");
    assert_eq!(
        printed.lines().map(|line| line.find("# ").unwrap()).collect::<std::collections::BTreeSet<_>>().len(),
        1
    );
    assert_eq!(columns.len(), 8);

    let taught = config.print(true);
    assert!(
        taught.starts_with(
            "# Where clients connect.\n# Loopback, so that nothing is open by accident.\ngateway.listen = "
        ),
        "{taught}"
    );
    let (_dir, path) = file(&taught);
    let again = builder().file(&path).unwrap().build().unwrap();
    assert_eq!(again.section::<Gateway>("gateway").unwrap(), config.section::<Gateway>("gateway").unwrap());
    let entry = config.entries().find(|entry| entry.key == "gateway.shards").unwrap();
    assert_eq!((entry.value.as_str(), entry.source.as_str()), ("2", "--set"));
    assert_eq!(entry.comment, "Threads that own sockets; 0 is one per core.");
}

#[test]
fn a_file_that_cannot_be_read_is_one_line() {
    let error = builder().file(Path::new("/nowhere/carillon.toml")).unwrap_err();
    assert!(error.to_string().starts_with("configuration file /nowhere/carillon.toml: "), "{error}");
    let (_dir, path) = file("a = 1\nb = = 2\n");
    let error = builder().file(&path).unwrap_err().to_string();
    assert!(error.contains("line 2: ") && error.lines().count() == 1, "{error}");
}

#[test]
fn defaults_that_break_a_rule_are_our_mistake_and_say_which() {
    for (text, told) in [
        ("a = 1\n", "a has no comment"),
        ("# x\n\na = 1\n", "a has no comment"),
        ("# x\na__b = 1\n", "single underscores"),
        ("# x\nA = 1\n", "single underscores"),
        ("# x\na = [1]\n", "no source can write"),
        ("# x\na = 1979-05-27\n", "no source can write"),
        ("# x\n#: hidden\na = 1\n", "the attribute hidden"),
        ("# x\n#: tables\na = 1\n", "no source can write"),
        ("# x\na = { b = 1 }\n", "a.b does not stand on a line"),
        ("# x\nplace = 1\n", "place has another owner"),
        ("# x\na = \n", ""),
    ] {
        let error = builder().defaults("test", text).unwrap_err().to_string();
        assert!(error.starts_with("the defaults of test: ") && error.contains(told), "{text}: {error}");
    }
}

#[test]
fn the_settings_of_this_crate_keep_their_own_rules() {
    let config =
        Config::builder().defaults("node", carillon_node::DEFAULTS).unwrap().env(NONE).build().unwrap();
    assert_eq!(config.text("admin.listen"), Some("127.0.0.1:9100"));
    assert_eq!(config.text("data_dir"), Some("carillon-data"));
}
