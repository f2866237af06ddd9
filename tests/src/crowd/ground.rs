//! What scenarios stand on: a server, tokens, REST requests, conversations of any size, and figures in order.

use std::time::{Duration, Instant};

use carillon_node::clock::Clock;
use carillon_node::tokens::{Claims, KeyTable, dev_key};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::Campaign;
use crate::http::{Answer, request};
use crate::server::{Deployment, Process, Server};

/// Ids in one request, at most.
const IDS_MAX: usize = 1_000;
/// How long tokens last: longer than any scenario.
const TOKEN_S: u64 = 7_200;

/// A server and the key of its tokens.
pub struct Ground {
    /// The server.
    pub server: Server,
    keys: KeyTable,
}

impl Ground {
    /// Starts one, after raising the limit of descriptors, which the server inherits.
    ///
    /// # Errors
    /// One sentence when the key cannot be read.
    pub fn start(campaign: &Campaign, deployment: Deployment, settings: &[&str]) -> Result<Ground, String> {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).map_err(|error| format!("descriptors: {error}"))?;
        let server = Server::start(&campaign.binary, deployment, settings);
        let keys = dev_key(&server.data_dir()).map_err(|fatal| fatal.to_string())?;
        Ok(Ground { server, keys })
    }

    /// One more gateway beside the server's, in [`Deployment::Tiers`].
    #[must_use]
    pub fn another_gateway(&self, campaign: &Campaign, settings: &[&str]) -> Process {
        let directory = self.server.data_dir();
        let routers = format!("gateway.routers={}", self.server.router());
        let mut arguments =
            vec!["gateway".to_owned(), "--data-dir".to_owned(), directory.display().to_string()];
        let own = ["gateway.listen=127.0.0.1:0", "admin.listen=127.0.0.1:0", &routers];
        for setting in own.iter().chain(settings) {
            arguments.extend(["--set".to_owned(), (*setting).to_owned()]);
        }
        Process::start(&campaign.binary, &arguments, directory.join("another-gateway.log"))
    }

    /// A token.
    ///
    /// # Panics
    /// When it cannot be signed.
    #[must_use]
    pub fn token(&self, user: u64, device: &str) -> String {
        let now_s = Clock.wall_ms() / 1_000;
        let claims = Claims {
            user_id: user,
            device_id: device.to_owned(),
            issued_s: now_s.saturating_sub(60),
            expires_s: now_s + TOKEN_S,
            name: None,
            scope: String::new(),
        };
        self.keys.sign(&claims).expect("signed with the development key")
    }

    /// One REST request.
    #[must_use]
    pub fn rest(&self, user: u64, method: &str, path: &str, body: Option<&Value>) -> Answer {
        request(self.server.address(), method, path, Some(&self.token(user, "rest")), &[], body)
    }

    /// A conversation of two.
    ///
    /// # Errors
    /// The answer, when it is no conversation.
    pub fn pair(&self, one: u64, other: u64) -> Result<String, String> {
        self.created(one, &json!({"type": "one_to_one", "member_ids": [other.to_string()]}))
    }

    /// A group of any size: made with the first thousand, grown by further requests.
    ///
    /// # Errors
    /// The first answer that is no success.
    pub fn group(&self, owner: u64, others: &[u64]) -> Result<String, String> {
        let ids = |users: &[u64]| users.iter().map(u64::to_string).collect::<Vec<_>>();
        // The owner is a member without being named, and counts.
        let (first, rest) = others.split_at(others.len().min(IDS_MAX - 1));
        let wish = json!({"type": "group", "group_name": "a crowd", "member_ids": ids(first)});
        let group = self.created(owner, &wish)?;
        for more in rest.chunks(IDS_MAX) {
            self.change(owner, "POST", &group, "", Some(&json!({"user_ids": ids(more)})))?;
        }
        Ok(group)
    }

    /// Changes who is a member. Returns the event's seq.
    ///
    /// # Errors
    /// The answer, when it is no success.
    pub fn change(
        &self,
        by: u64,
        method: &str,
        group: &str,
        below: &str,
        body: Option<&Value>,
    ) -> Result<Option<u64>, String> {
        let path = format!("/v1/conversations/{group}/members{below}");
        let answer = self.rest(by, method, &path, body);
        if answer.status == 200 {
            Ok(answer.body["seq"].as_u64())
        } else {
            Err(format!("{method} {path}: {answer:?}"))
        }
    }

    fn created(&self, by: u64, wish: &Value) -> Result<String, String> {
        let answer = self.rest(by, "POST", "/v1/conversations", Some(wish));
        let id = answer.body["conversation_id"].as_str().filter(|_| matches!(answer.status, 200 | 201));
        id.map(str::to_owned).ok_or_else(|| format!("no conversation: {answer:?}"))
    }

    /// A metric of the server: the sum over all of its labels. `None` when there is none of that name.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = request(self.server.admin(), "GET", "/metrics", None, &[], None).text;
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let values =
            text.lines().filter(of_name).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }
}

/// Users from `first` on.
#[must_use]
pub fn users(first: u64, count: usize) -> Vec<u64> {
    (first..).take(count).collect()
}

/// Latencies, to be asked for percentiles.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    /// One more, in nanoseconds.
    pub fn record(&mut self, nanoseconds: u64) {
        self.0.push(nanoseconds);
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The latency that `percent` of 100 stay within, in milliseconds; 0 when there is none.
    #[must_use]
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).map_or(0.0, |nanoseconds| *nanoseconds as f64 / 1e6)
    }

    /// For the verdict.
    #[must_use]
    pub fn words(&self) -> String {
        format!(
            "p50 {:.2} ms, p99 {:.2} ms of {}",
            self.percentile_ms(50.0),
            self.percentile_ms(99.0),
            self.count()
        )
    }
}

/// Repeats until it returns something, or `Err` with `what` when `patience` is over.
///
/// # Errors
/// See above, and the errors of `step`.
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut step: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = step()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(format!("{what}: not within {} s", patience.as_secs()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile_ms(50.0), 0.0);
        (1..=100).rev().for_each(|ms| latencies.record(ms * 1_000_000));
        assert_eq!((latencies.percentile_ms(50.0), latencies.percentile_ms(99.0)), (50.0, 99.0));
        assert_eq!(latencies.percentile_ms(100.0), 100.0);
    }
}
