//! Where io_uring is refused: what the server does about it, and what it says. That everything else goes on is in the
//! scenarios, which `.ci/drivers` plays there.

use carillon_tests::confined::VARIABLE;
use carillon_tests::http::request;
use carillon_tests::server::{Process, command};

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-under-test");

/// How the kernel refuses it, and what that is called.
const REFUSALS: [(&str, &str); 2] =
    [("EPERM", "Operation not permitted"), ("ENOSYS", "Function not implemented")];

fn arguments(data_dir: &std::path::Path, driver: &str) -> Vec<String> {
    let data_dir = data_dir.display().to_string();
    let settings =
        ["gateway.listen", "admin.listen", "router.listen"].map(|key| format!("{key}=127.0.0.1:0"));
    let settings = settings.into_iter().chain([format!("io.driver={driver}")]);
    ["--data-dir".to_owned(), data_dir]
        .into_iter()
        .chain(settings.flat_map(|setting| ["--set".to_owned(), setting]))
        .collect()
}

/// DC1: `auto` and `monoio` do without it, and say so in the log, in the metric, and to whoever asks whether it is ready.
#[test]
fn where_io_uring_is_refused_epoll_serves_and_says_so() {
    for (answer, name) in REFUSALS {
        for (driver, refused) in [("auto", "uring"), ("monoio", "monoio")] {
            let directory = tempfile::tempdir().expect("a directory");
            let arguments = arguments(&directory.path().join("data"), driver);
            let log = directory.path().join("log");
            let variables = [(VARIABLE, answer.into())];
            let process = Process::try_start_with(BINARY, &arguments, variables, log)
                .unwrap_or_else(|failed| panic!("{answer} {driver}: {failed}"));
            let told = format!("monoio-epoll: the driver {refused} is refused here ({name}");

            let log = process.log_tail();
            let warning = log.lines().find(|line| line.contains("\"WARN\"") && line.contains(&told));
            assert!(warning.is_some(), "{told:?} is not in {log}");
            let ask = |path| request(process.address("admin"), "GET", path, None, &[], None).text;
            let ready = ask("/readyz");
            assert!(ready.contains(&told), "{told:?} is not in {ready}");
            let metrics = ask("/metrics");
            for (driver, is_used) in [("uring", false), ("monoio", false), ("monoio-epoll", true)] {
                let row = format!("carillon_io_driver{{driver=\"{driver}\"}} ");
                let shards = metrics.lines().find_map(|line| line.strip_prefix(&row));
                assert_eq!(shards.map(|shards| shards != "0"), Some(is_used), "{driver}: {metrics}");
            }
        }
    }
}

/// Whoever asks for io_uring by name is not given anything else, and is told what to do.
#[test]
fn our_own_driver_does_not_start_where_io_uring_is_refused() {
    for (answer, name) in REFUSALS {
        let directory = tempfile::tempdir().expect("a directory");
        let arguments = arguments(&directory.path().join("data"), "uring");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ended = command(BINARY, &arguments, &[(VARIABLE, answer)]);
        assert_eq!((ended.status, ended.stdout.as_str()), (Some(2), ""), "{answer}: {ended:?}");
        for word in ["io.driver=uring", name, "--set io.driver=auto", "seccomp"] {
            assert!(ended.stderr.contains(word), "{answer}: {word:?} is not in {}", ended.stderr);
        }
    }
}
