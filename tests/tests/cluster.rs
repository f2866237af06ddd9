//! Routers and gateways as processes on a real FoundationDB, when there is one. `cluster` is the long form.

use carillon_tests::cluster::{CLUSTER_VARIABLE, Siege};
use carillon_tests::server::command;

/// G1, G2, G3, G6: two routers and two gateways on FoundationDB, more of both that come and go, some
/// that are killed, one that stands still and one that is stopped: nothing that was acknowledged is lost, doubled or out
/// of place.
#[test]
fn a_cluster_under_fire_keeps_what_it_acknowledged() {
    let Some(cluster_file) = std::env::var_os(CLUSTER_VARIABLE).filter(|_| cfg!(feature = "fdb")) else {
        eprintln!("SKIPPED: needs the feature fdb, and {CLUSTER_VARIABLE}=<cluster file> of a FoundationDB");
        return;
    };
    let state = tempfile::tempdir().expect("a temporary directory");
    let siege = Siege {
        binary: env!("CARGO_BIN_EXE_carillon-under-test").to_owned(),
        cluster_file: cluster_file.into(),
        databases: None,
        routers: 2,
        gateways: 2,
        kills: 2,
        pauses: 1,
        pause_s: (10, 10),
        stops: 1,
        rate_per_s: 60,
        seed: u64::from(std::process::id()),
        state: state.path().to_owned(),
    };
    match siege.run() {
        Ok(account) => println!("seed {}:\n{}", siege.seed, account.table()),
        Err(found) => panic!("seed {}: {found}", siege.seed),
    }
}

/// Whoever starts the campaign without a database is told what it needs, and how.
#[test]
fn without_a_database_the_campaign_says_what_it_needs() {
    let ended = command(env!("CARGO_BIN_EXE_cluster"), &[], &[]);
    assert_eq!(ended.status, Some(2), "{ended:?}");
    assert!(ended.stderr.contains(CLUSTER_VARIABLE), "{ended:?}");
    let ended = command(env!("CARGO_BIN_EXE_cluster"), &[], &[(CLUSTER_VARIABLE, "/nowhere/fdb.cluster")]);
    assert_eq!(ended.status, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("no such file"), "{ended:?}");
}
