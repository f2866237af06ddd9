//! What is impossible about a plan, before anything starts.

use carillon_protocol::limits::CONTENT_BYTES_MAX;

use super::Options;
use crate::content::CONTENT_BYTES_MIN;

/// What this machine allows.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Descriptors of one process, at most.
    pub descriptors_max: u64,
    /// Whether clients need none of them, because they are on rings, of which each has at most so many.
    pub has_rings: bool,
    /// Ports that an outgoing connection may take, per source address.
    pub ports_count: u64,
    /// Source addresses there are: many on loopback, else one.
    pub addresses_count: u64,
}

/// Descriptors that the generator needs beside its clients'.
const DESCRIPTORS_SPARE: u64 = 64;

/// The largest group: the largest that a preset has.
const GROUP_SIZE_MAX: u32 = 25_000;

/// The most messages on their way: a server need not read on above (`limits.inflight`).
const IN_FLIGHT_MAX: usize = 64;

/// The most threads: beyond, the generator only competes with itself.
const THREADS_MAX: usize = 64;

impl Machine {
    /// Threads for so many clients, if they are at least `threads`.
    #[must_use]
    pub fn engines_count(&self, clients: u32, threads: usize) -> usize {
        let rings = u64::from(clients).div_ceil(self.descriptors_max.max(1));
        if self.has_rings { threads.max(usize::try_from(rings).unwrap_or(usize::MAX)) } else { threads }
    }
}

/// Whether the plan can work.
///
/// # Errors
/// One sentence that says what cannot, and what to change.
pub fn check(options: &Options, tokens_count: Option<usize>, machine: &Machine) -> Result<(), String> {
    let clients = u64::from(options.clients);
    let two_needed = if options.idle { 1 } else { 2 };
    if clients < two_needed {
        return Err(format!(
            "{clients} clients have nobody to talk to: --clients needs at least {two_needed}"
        ));
    }
    let engines_count = machine.engines_count(options.clients, 1);
    if engines_count > THREADS_MAX {
        return Err(format!(
            "{clients} clients need {engines_count} threads of {} each, and there are at most {THREADS_MAX}: lower --clients, \
             or raise `ulimit -Hn`",
            machine.descriptors_max
        ));
    }
    let needed = clients + DESCRIPTORS_SPARE;
    if !machine.has_rings && needed > machine.descriptors_max {
        return Err(format!(
            "{clients} clients need {needed} descriptors and this process may have {}: lower --clients, or raise \
             `ulimit -Hn`",
            machine.descriptors_max
        ));
    }
    let ports = machine.ports_count.saturating_mul(machine.addresses_count);
    if clients > ports {
        return Err(format!(
            "{clients} clients need as many ports and this machine has {ports} from {} source addresses: lower \
             --clients, or widen net.ipv4.ip_local_port_range",
            machine.addresses_count
        ));
    }
    if let Some(count) = tokens_count.filter(|count| (*count as u64) < clients) {
        return Err(format!(
            "{clients} clients need a token each and --tokens holds {count}: lower --clients"
        ));
    }
    if options.users == 0 || options.users.checked_add(clients).is_none_or(|end| end > 1 << 63) {
        return Err(format!(
            "users {} to {clients} more do not lie in 1 … 2^63 − 1: change --users",
            options.users
        ));
    }
    if options.uses_groups() {
        if u64::from(options.group_size) > clients {
            let size = options.group_size;
            return Err(format!("a group of {size} is larger than {clients} clients: lower --group-size"));
        }
        if options.group_size < 2 || options.group_size > GROUP_SIZE_MAX {
            return Err(format!("--group-size {} is not within 2 to {GROUP_SIZE_MAX}", options.group_size));
        }
    }
    if !options.idle && !options.uses_groups() && !options.uses_pairs() {
        return Err("--mix sends nothing anywhere: give one_to_one or group a share above 0".to_owned());
    }
    if !(CONTENT_BYTES_MIN..=CONTENT_BYTES_MAX).contains(&options.content_bytes) {
        let bytes = options.content_bytes;
        return Err(format!(
            "--content-bytes {bytes} is not within {CONTENT_BYTES_MIN} to {CONTENT_BYTES_MAX}"
        ));
    }
    if !(0.0..=1.0).contains(&options.media) {
        return Err(format!("--media {} is not within 0 to 1", options.media));
    }
    if !(options.rate.is_finite() && options.rate > 0.0) {
        return Err(format!("--rate {} is not a number above 0", options.rate));
    }
    if let Some(in_flight) = options.in_flight {
        if !(1..=IN_FLIGHT_MAX).contains(&in_flight) {
            return Err(format!("--in-flight {in_flight} is not within 1 to {IN_FLIGHT_MAX}"));
        }
        if !clients.is_multiple_of(2) {
            return Err(format!(
                "{clients} clients are not pairs: --in-flight needs an even number of --clients"
            ));
        }
    }
    if !(options.open_rate.is_finite() && (1.0..=1e6).contains(&options.open_rate)) {
        return Err(format!("--open-rate {} is not within 1 to 1000000", options.open_rate));
    }
    if !(1..=THREADS_MAX).contains(&options.threads) {
        return Err(format!("--threads {} is not within 1 to {THREADS_MAX}", options.threads));
    }
    if options.server.is_empty() {
        return Err("--server names no address".to_owned());
    }
    Ok(())
}

/// Whether the server's own limit leaves room for the plan.
///
/// # Errors
/// One sentence that says what to change.
pub fn check_rate(options: &Options, send_per_s: u64) -> Result<(), String> {
    if options.in_flight.is_some() && send_per_s != 0 {
        return Err(format!(
            "--in-flight would find the server's limit of {send_per_s} messages a second and user: start the server with \
             --set limits.send_per_s=0"
        ));
    }
    let peak_per_s =
        if options.ramp.is_some() { options.rates().start_per_s() } else { options.peak_per_s() };
    let per_client = peak_per_s / f64::from(options.clients.max(1));
    if options.idle || send_per_s == 0 || per_client <= 0.8 * send_per_s as f64 {
        return Ok(());
    }
    let clients = (peak_per_s / (0.8 * send_per_s as f64)).ceil();
    Err(format!(
        "{per_client:.1} messages a second and client are too near to the server's limit of {send_per_s}: use \
         --clients {clients}, or start the server with --set limits.send_per_s=0"
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    const MACHINE: Machine =
        Machine { descriptors_max: 20_000, has_rings: false, ports_count: 28_000, addresses_count: 8 };

    fn parsed(line: &str) -> Options {
        Options::try_parse_from(["loadgen"].into_iter().chain(line.split_whitespace())).unwrap()
    }

    #[test]
    fn impossible_plans_are_refused_with_a_sentence() {
        let refused = [
            ("--clients 1", None, "nobody to talk to"),
            ("--clients 19990", None, "descriptors"),
            ("--clients 10", Some(9), "--tokens holds 9"),
            ("--clients 4 --group-size 5", None, "larger than 4 clients"),
            ("--mix group=0", None, "sends nothing"),
            ("--content-bytes 63", None, "--content-bytes 63"),
            ("--content-bytes 16385", None, "--content-bytes 16385"),
            ("--rate 0", None, "--rate 0"),
            ("--threads 0", None, "--threads 0"),
            ("--users 9223372036854775807-", None, "--users"),
            ("--clients 3 --in-flight 1", None, "3 clients are not pairs"),
            ("--in-flight 65", None, "--in-flight 65"),
            ("--open-rate 0", None, "--open-rate 0"),
            ("--media 1.1", None, "--media 1.1"),
        ];
        for (line, tokens, words) in refused {
            let sentence = check(&parsed(line), tokens, &MACHINE).expect_err(line);
            assert!(sentence.contains(words) && !sentence.contains('\n'), "{line}: {sentence}");
        }
        let rings = Machine { has_rings: true, ..MACHINE };
        for (clients, engines_count) in [(1, 1), (20_000, 1), (20_001, 2), (200_000, 10)] {
            assert_eq!(rings.engines_count(clients, 1), engines_count, "{clients}");
        }
        assert_eq!((rings.engines_count(10, 3), MACHINE.engines_count(200_000, 1)), (3, 1));
        assert_eq!(check(&parsed("--clients 200000 --idle"), None, &rings), Ok(()));
        let few_descriptors = Machine { descriptors_max: 1_000, ..rings };
        assert!(
            check(&parsed("--clients 65000"), None, &few_descriptors).unwrap_err().contains("65 threads")
        );
        let few_ports = Machine { ports_count: 100, addresses_count: 1, ..MACHINE };
        assert!(check(&parsed("--clients 101"), None, &few_ports).unwrap_err().contains("ports"));
        for line in ["", "--clients 19000 --idle", "--clients 1 --idle", "--clients 2 --mix one_to_one=1"] {
            assert_eq!(check(&parsed(line), None, &MACHINE), Ok(()), "{line}");
        }
    }

    #[test]
    fn the_server_s_rate_limit_is_respected_in_the_plan() {
        assert_eq!(check_rate(&parsed("--clients 100 --rate 1000"), 20), Ok(()));
        assert_eq!(check_rate(&parsed("--clients 10 --rate 1000"), 0), Ok(()));
        let sentence = check_rate(&parsed("--clients 10 --rate 1000"), 20).unwrap_err();
        assert!(sentence.contains("--clients 63"), "{sentence}");
        assert_eq!(check_rate(&parsed("--in-flight 8"), 0), Ok(()));
        assert!(check_rate(&parsed("--in-flight 8"), 20).unwrap_err().contains("limits.send_per_s=0"));
    }
}
