//! The source document's own numbers, and what cannot be.

use clap::Parser;

use super::*;
use crate::args::{Arguments, Command};

fn words(line: &str) -> CapacityArguments {
    let line = ["carillon", "capacity"].into_iter().chain(line.split_whitespace());
    match Arguments::try_parse_from(line).unwrap().command {
        Some(Command::Capacity(words)) => *words,
        other => panic!("{other:?}"),
    }
}

fn plan(line: &str) -> Plan {
    Plan::of(&Demand::read(&words(line)).unwrap()).unwrap()
}

fn printed(line: &str) -> String {
    let mut out = Vec::new();
    run(&words(line), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// CP2, CP3, CP4, CP5, CP6: 500 million people and 40 messages each are 20 billion a day, 230 thousand a second and
/// some 700 at the peak, with the routers that takes.
#[test]
fn cp4_messages_of_a_day_average_and_peak() {
    let demand = Demand::read(&words("")).unwrap();
    assert_eq!((demand.daily_users, demand.messages_per_user_day), (5e8, 40.0));
    let plan = plan("");
    assert_eq!(plan.messages_per_day, 20e9);
    assert!((230_000.0..232_000.0).contains(&plan.messages_per_s_average), "{plan:?}");
    assert!((690_000.0..700_000.0).contains(&plan.messages_per_s_peak), "{plan:?}");
    let table = printed("");
    for figure in ["20 B", "231 K", "694 K"] {
        assert!(table.contains(figure), "{figure} is missing in\n{table}");
    }
    // Each router carries what it was measured to carry, with room left.
    let per_router = plan.messages_per_s_peak / plan.routers as f64;
    assert!(per_router <= demand.messages_per_router_s * demand.utilization);
    assert!(plan.routers_at_average < plan.routers && plan.routers_at_average >= 1);
    let faster = super::tests::plan("--messages-per-router-s 164K");
    assert_eq!(faster.routers, plan.routers.div_ceil(2));
}

/// CP1: two billion people are few among 63 bits of ids; more than those are refused.
#[test]
fn cp1_ids_are_wide_enough() {
    const { assert!(ID_MAX > 2_000_000_000) };
    assert_eq!(size_of::<carillon_protocol::ids::UserId>(), 8);
    assert_eq!(Demand::read(&words("")).unwrap().registered, 2e9);
    assert!(Demand::read(&words("--registered 10000000T")).is_err());
}

/// CP7, CP9: 100 million sockets need a thousand gateways and a terabyte by the budget of 10 KB each.
#[test]
fn cp7_gateways_and_memory_for_connections() {
    let plan = plan("");
    assert_eq!(plan.gateways_for_connections, 1_000);
    assert_eq!(plan.connection_bytes_budgeted, 1e12);
    assert_eq!(plan.connection_bytes_per_gateway, 1e9);
    assert_eq!(super::tests::plan("--connections-per-gateway 50K").gateways_for_connections, 2_000);
    assert!(printed("").contains("1 TB"));
}

/// CP8: what is measured, ours and the kernel's apart, stays below the budget of 10 KB.
#[test]
fn cp8_a_connection_costs_less_than_its_budget() {
    let demand = Demand::read(&words("")).unwrap();
    assert_eq!(demand.bytes_per_connection, 10_000.0);
    assert!(CONNECTION_USER_BYTES + CONNECTION_KERNEL_BYTES <= demand.bytes_per_connection);
    let table = printed("");
    assert!(table.contains("517 B ours, 4000 B the kernel's"), "{table}");
    assert_eq!(plan("").connection_bytes_measured, 1e8 * 4_517.0);
}

/// CP10, CP11, CP12: 200 bytes a message are 4 TB a day and some 7 PB in five years.
#[test]
fn cp11_bytes_of_messages() {
    let plan = plan("");
    assert_eq!(plan.message_bytes_per_day, 4e12);
    assert_eq!(plan.message_bytes_retained, 7.3e15);
    assert_eq!(super::tests::plan("--replicas 1").message_bytes_replicated, 7.3e15);
    assert_eq!(plan.message_bytes_replicated, 3.0 * 7.3e15);
    assert!(printed("").contains("7.3 PB"));
}

/// CP13, CP14: a tenth of the messages carries 200 KB: two billion and 400 TB a day.
#[test]
fn cp14_bytes_of_media() {
    let plan = plan("");
    assert_eq!((plan.media_per_day, plan.media_bytes_per_day), (2e9, 4e14));
    assert!(printed("").contains("400 TB"));
    assert_eq!(super::tests::plan("--media-share 0").media_bytes_per_day, 0.0);
}

/// CP16: both axes count: few talkers on many sockets need gateways for connections, many talkers on few sockets for
/// CPU.
#[test]
fn cp16_connections_and_messages_both_need_machines() {
    let quiet = plan("--messages-per-user-day 0.01");
    assert!(quiet.gateways_for_connections > quiet.gateways_for_cpu);
    assert_eq!((quiet.gateways, quiet.routers), (1_000, 1));
    let loud = plan("--concurrent 100K --messages-per-user-day 4000");
    assert!(loud.gateways_for_cpu > loud.gateways_for_connections);
    assert_eq!(loud.gateways, loud.gateways_for_cpu);
    assert!(loud.routers > 1_000, "{loud:?}");
}

/// NF6: the model: machines grow with connections and messages, in proportion, and with registered users not at all.
#[test]
fn nf6_nothing_grows_with_all_users() {
    let base = plan("--connections-per-gateway 50K");
    let doubled = plan("--connections-per-gateway 50K --concurrent 200M --dau 1B");
    assert_eq!(doubled.gateways, 2 * base.gateways);
    assert!(doubled.routers.abs_diff(2 * base.routers) <= 1);
    assert_eq!(doubled.connection_bytes_per_gateway, base.connection_bytes_per_gateway);
    assert_eq!(plan("--connections-per-gateway 50K --registered 4B"), base);
}

/// PR8: 20 million writes a second are what a written heartbeat of 5 s costs; here a beat is no write.
#[test]
fn pr8_presence_is_no_write_load() {
    let plan = plan("");
    assert_eq!(plan.presence_writes_per_s_naive, 20e6);
    assert!(plan.presence_writes_per_s < plan.presence_writes_per_s_naive / 100.0, "{plan:?}");
    let table = printed("");
    assert!(table.contains("20 M") && table.contains("us/s"), "{table}");
    // A slower heartbeat costs less CPU and the same writes.
    let slower = super::tests::plan("--heartbeat-s 60");
    assert_eq!(slower.presence_us_per_connection_s * 2.0, plan.presence_us_per_connection_s);
    assert_eq!(slower.presence_writes_per_s, plan.presence_writes_per_s);
}

#[test]
fn what_cannot_be_is_one_line_and_status_2() {
    for (line, part) in [
        ("--dau 0", "--dau \"0\" is not a whole number from 1"),
        ("--dau -5", "--dau \"-5\""),
        ("--dau 1.5", "--dau"),
        ("--dau", "--dau"),
        ("--dau 1e9", "--dau"),
        ("--dau inf", "--dau"),
        ("--dau 3B", "more than --registered"),
        ("--concurrent 100B", "32 devices"),
        ("--peak-factor 0.5", "--peak-factor"),
        ("--media-share 1.1", "--media-share"),
        ("--utilization 0", "--utilization"),
        ("--heartbeat-s 0", "--heartbeat-s"),
        ("--messages-per-core-s .", "--messages-per-core-s"),
        ("--bytes-per-message 900T --retention-years 100", "bytes of messages"),
        ("--media-bytes 9000T", "bytes of media"),
        ("--bytes-per-connection 9000T --concurrent 50B", "bytes of connections"),
        ("--messages-per-router-s 0.000000000000001", "--messages-per-router-s"),
        ("--registered 99999999999999999999999", "--registered"),
        ("--registered é", "--registered"),
    ] {
        let line = if line == "--dau" { "--dau= " } else { line };
        let fatal = run(&words(line), &mut Vec::new()).expect_err(line);
        assert_eq!(fatal.status, 2);
        assert!(fatal.sentence.contains(part), "{line}: {fatal}");
        assert!(!fatal.sentence.contains('\n'), "{fatal}");
    }
}

/// CP4, CP9: scripts read the same figures.
#[test]
fn json_says_what_the_table_says() {
    let value: serde_json::Value = serde_json::from_str(&printed("--json")).unwrap();
    assert_eq!(value["plan"]["messages_per_day"], 20e9);
    assert_eq!(value["plan"]["connection_bytes_budgeted"], 1e12);
    assert_eq!(value["plan"]["gateways"], plan("").gateways);
    assert_eq!(value["demand"]["dau"], 5e8);
}
