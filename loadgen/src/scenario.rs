//! Scenario files: a run written down in TOML, and those that come with the generator.
//!
//! # Invariants
//! - Pure: handed text. A key that is not known is refused, with its line.
//! - What the command line says goes before what the file says.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::options::{EncodingName, Mix, Options, parse};
use crate::schedule::{Arrivals, Stage};
use crate::session::Receipts;

/// Stages, and storms, that a scenario has at most.
const STAGES_MAX: usize = 1_000;

/// Seconds of a day.
const DAY_S: f64 = 86_400.0;

/// The longest run, which a week is far above of.
const LENGTH_MAX: Duration = Duration::from_secs(604_800);

/// A scenario that comes with the generator.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

macro_rules! presets {
    ($($name:literal),+ $(,)?) => {
        /// Every preset.
        pub const PRESETS: &[Preset] = &[
            $(Preset { name: $name, text: include_str!(concat!("../scenarios/", $name, ".toml")) }),+
        ];
    };
}
presets![
    "one-to-one",
    "groups-200",
    "group-1000",
    "channel-25000",
    "mixed-day",
    "reconnect-storm",
    "presence-storm",
    "slow-readers",
];

/// The preset of a name.
///
/// # Errors
/// One sentence with the names there are.
pub fn preset(name: &str) -> Result<&'static Preset, String> {
    PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        format!("{name} is no preset; there are {}", names.join(", "))
    })
}

/// What clients do beside sending.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manners {
    /// When connections are cut, since the end of the warm-up, and whose.
    pub storms: Vec<Storm>,
    /// Who reads slowly.
    pub slow_readers: Option<SlowReaders>,
    /// Each client watches the presence of so many others.
    pub watch: u32,
}

/// Connections that are cut at the same time; they come back as after any loss, or all at once when they were away so long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Storm {
    /// Nanoseconds since the end of the warm-up.
    pub at_ns: u64,
    /// Of the clients.
    pub share: f64,
    /// How long they stay away, in nanoseconds.
    pub away_ns: Option<u64>,
}

/// Clients that read slowly while the schedule runs.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlowReaders {
    /// Of the clients.
    pub share: f64,
    /// What they read.
    pub bytes_per_s: u64,
}

/// A file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One line.
    #[serde(default)]
    pub about: String,
    /// Settings without which the server refuses the plan.
    #[serde(default)]
    pub needs: Vec<String>,
    clients: Option<u32>,
    threads: Option<usize>,
    encoding: Option<EncodingName>,
    mix: Option<Mix>,
    group_size: Option<u32>,
    content_bytes: Option<usize>,
    media: Option<f64>,
    receipts: Option<Receipts>,
    arrivals: Option<Arrivals>,
    warmup: Option<Length>,
    settle: Option<Length>,
    #[serde(default)]
    thresholds: Vec<String>,
    #[serde(default)]
    rates: Unit,
    speed_up: Option<f64>,
    #[serde(default)]
    watch: u32,
    slow_readers: Option<SlowReaders>,
    #[serde(default, rename = "storm")]
    storms: Vec<StormText>,
    #[serde(default, rename = "stage")]
    stages: Vec<StageText>,
}

/// What rates are of.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Unit {
    /// All clients together, a second.
    #[default]
    PerS,
    /// One client, a day.
    PerUserDay,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StormText {
    at: Length,
    share: f64,
    away: Option<Length>,
}

/// `rate`, or `from` and `to`, and `length`; or `pause` alone.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StageText {
    rate: Option<f64>,
    from: Option<f64>,
    to: Option<f64>,
    length: Option<Length>,
    pause: Option<Length>,
}

/// A time as the command line writes it.
#[derive(Clone, Copy, Debug)]
struct Length(Duration);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Length, D::Error> {
        let text = String::deserialize(from)?;
        parse::duration(&text).map(Length).map_err(de::Error::custom)
    }
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        // Whatever the options come to be: what can be refused without them is.
        scenario.stages(1)?;
        scenario.manners()?;
        scenario.thresholds()?;
        Ok(scenario)
    }

    /// Writes it into options whose flags were given or not, by their ids.
    ///
    /// # Errors
    /// One sentence when the command line says what goes not with it.
    pub fn apply(
        &self,
        name: &str,
        options: &mut Options,
        given: impl Fn(&str) -> bool,
    ) -> Result<(), String> {
        fn take<T: Clone>(place: &mut T, value: Option<&T>, is_given: bool) {
            if let Some(value) = value.filter(|_| !is_given) {
                *place = value.clone();
            }
        }
        take(&mut options.clients, self.clients.as_ref(), given("clients"));
        take(&mut options.threads, self.threads.as_ref(), given("threads"));
        take(&mut options.encoding, self.encoding.as_ref(), given("encoding"));
        take(&mut options.mix, self.mix.as_ref(), given("mix"));
        take(&mut options.group_size, self.group_size.as_ref(), given("group_size"));
        take(&mut options.content_bytes, self.content_bytes.as_ref(), given("content_bytes"));
        take(&mut options.media, self.media.as_ref(), given("media"));
        take(&mut options.receipts, self.receipts.as_ref(), given("receipts"));
        take(&mut options.arrivals, self.arrivals.as_ref(), given("arrivals"));
        take(&mut options.warmup, self.warmup.map(|length| length.0).as_ref(), given("warmup"));
        take(&mut options.settle, self.settle.map(|length| length.0).as_ref(), given("settle"));
        options.threshold.extend(self.thresholds()?);
        options.manners = self.manners()?;
        options.scenario = Some(name.to_owned());
        if !options.retry && !options.manners.storms.is_empty() {
            return Err("--retry false and storms: nobody would come back".to_owned());
        }
        if ["rate", "ramp", "in_flight", "idle"].into_iter().any(&given) {
            return Ok(());
        }
        if given("duration") && !self.stages.is_empty() {
            return Err(
                "the scenario's stages have lengths of their own: --duration goes with --rate".to_owned()
            );
        }
        options.stages = self.stages(options.clients)?;
        Ok(())
    }

    fn thresholds(&self) -> Result<Vec<crate::thresholds::Threshold>, String> {
        self.thresholds.iter().map(|text| text.parse()).collect()
    }

    fn manners(&self) -> Result<Manners, String> {
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        if self.storms.len() > STAGES_MAX || !self.storms.iter().all(|storm| is_share(storm.share)) {
            return Err(format!("a storm's share lies within 0 to 1, and there are at most {STAGES_MAX}"));
        }
        if let Some(slow) = self.slow_readers
            && !(is_share(slow.share) && slow.bytes_per_s > 0)
        {
            return Err(
                "slow_readers have a share within 0 to 1 and read at least 1 byte a second".to_owned()
            );
        }
        let storm = |storm: &StormText| {
            let away_ns = storm.away.map(|away| self.fast_ns(away)).transpose()?;
            Ok(Storm { at_ns: self.fast_ns(storm.at)?, share: storm.share, away_ns })
        };
        let storms = self.storms.iter().map(storm).collect::<Result<_, String>>()?;
        Ok(Manners { storms, slow_readers: self.slow_readers, watch: self.watch })
    }

    fn stages(&self, clients: u32) -> Result<Vec<Stage>, String> {
        if self.stages.len() > STAGES_MAX {
            return Err(format!("{} stages are more than {STAGES_MAX}", self.stages.len()));
        }
        let factor = match self.rates {
            Unit::PerS => 1.0,
            Unit::PerUserDay => f64::from(clients) / DAY_S,
        };
        let factor = factor * self.speed_up()?;
        let all: Vec<Stage> = (1..)
            .zip(&self.stages)
            .map(|(place, text)| {
                let form = || {
                    format!(
                        "stage {place} is neither rate and length, nor from, to and length, nor pause alone"
                    )
                };
                let (from, to, length) = match (text.rate, text.from, text.to, text.length, text.pause) {
                    (Some(rate), None, None, Some(length), None) => (rate, rate, length),
                    (None, Some(from), Some(to), Some(length), None) => (from, to, length),
                    (None, None, None, None, Some(length)) => (0.0, 0.0, length),
                    _ => return Err(form()),
                };
                let is_rate = |rate: f64| rate.is_finite() && rate >= 0.0;
                if !is_rate(from) || !is_rate(to) || length.0.is_zero() {
                    return Err(format!("stage {place}: rates are from 0 on, and its length is above 0"));
                }
                let length_ns = self.fast_ns(length)?;
                Ok(Stage { from_per_s: from * factor, to_per_s: to * factor, length_ns })
            })
            .collect::<Result<_, String>>()?;
        let length_ns = all.iter().fold(0u64, |sum, stage| sum.saturating_add(stage.length_ns));
        if u128::from(length_ns) > LENGTH_MAX.as_nanos() {
            return Err("all stages together take at most 168h".to_owned());
        }
        if !all.is_empty() && all.iter().all(|stage| stage.mean_per_s() <= 0.0) {
            return Err("no stage sends anything".to_owned());
        }
        Ok(all)
    }

    fn speed_up(&self) -> Result<f64, String> {
        let speed_up = self.speed_up.unwrap_or(1.0);
        if speed_up.is_finite() && (1e-3..=1e6).contains(&speed_up) {
            Ok(speed_up)
        } else {
            Err("speed_up lies within 0.001 to 1000000".to_owned())
        }
    }

    fn fast_ns(&self, length: Length) -> Result<u64, String> {
        Ok((length.0.as_nanos() as f64 / self.speed_up()?) as u64)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn applied(text: &str, line: &str) -> Result<Options, String> {
        let words: Vec<&str> = std::iter::once("loadgen").chain(line.split_whitespace()).collect();
        let mut options = Options::try_parse_from(&words).unwrap();
        let given = |id: &str| words.contains(&format!("--{}", id.replace('_', "-")).as_str());
        Scenario::parse(text)?.apply("test", &mut options, given)?;
        Ok(options)
    }

    const SMALL: &str = "clients = 40\nthresholds = ['ack_p99_ms<50']\n[[stage]]\nrate = 10\nlength = '2s'\n\
                         [[stage]]\npause = '1s'\n[[stage]]\nfrom = 10\nto = 30\nlength = '4s'\n";

    #[test]
    fn every_preset_is_a_plan_that_says_what_it_is() {
        for preset in PRESETS {
            let options = applied(preset.text, "").unwrap_or_else(|words| panic!("{}: {words}", preset.name));
            assert!(!options.stages.is_empty() && options.peak_per_s() > 0.0, "{}", preset.name);
            let about = Scenario::parse(preset.text).unwrap().about;
            assert!((10..100).contains(&about.len()) && !about.contains('\n'), "{}", preset.name);
            // At the server's default of 20 a second and user.
            assert_eq!(crate::options::check_rate(&options, 20), Ok(()), "{}", preset.name);
        }
    }

    #[test]
    fn a_mixed_day_is_forty_messages_a_user() {
        let options = applied(preset("mixed-day").unwrap().text, "").unwrap();
        let messages = |stage: &Stage| stage.mean_per_s() * stage.length_ns as f64 / 1e9;
        let all: f64 = options.stages.iter().map(messages).sum();
        assert!((all / f64::from(options.clients) - 40.0).abs() < 0.5, "{all}");
        let length_s: f64 = options.stages.iter().map(|stage| stage.length_ns as f64 / 1e9).sum();
        assert!((length_s - 86.4).abs() < 0.01, "{length_s}");
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let options = applied(SMALL, "").unwrap();
        assert_eq!((options.clients, options.stages.len(), options.threshold.len()), (40, 3, 1));
        assert_eq!((options.peak_per_s(), options.send_time().as_secs()), (30.0, 9));
        let options = applied(SMALL, "--clients 50 --rate 5 --duration 3s").unwrap();
        assert_eq!((options.clients, options.stages.len(), options.peak_per_s()), (50, 0, 5.0));
        assert!(applied(SMALL, "--ramp 10:2:1").unwrap().stages.is_empty());
        assert!(applied(SMALL, "--in-flight 2").unwrap().stages.is_empty());
        assert!(applied(SMALL, "--duration 3s").unwrap_err().contains("--duration goes with --rate"));
        let storm = "[[storm]]\nat = '1s'\nshare = 1.0\n";
        assert!(applied(storm, "--retry false").unwrap_err().contains("come back"));
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_line() {
        for (text, line, words) in [
            ("clients = 3\nclient = 4\n", Some(2), "unknown field `client`"),
            ("[[stage]]\nrate = 1\nfor = '1s'\n", Some(3), "unknown field `for`"),
            ("\n\nwarmup = '5 minutes'\n", Some(3), "a time is a number"),
            ("receipts = 'all'\n", Some(1), "unknown variant `all`"),
            ("mix = { groups = 1.0 }\n", Some(1), "unknown field `groups`"),
            ("[[stage]]\nrate = 1\n", None, "stage 1 is neither"),
            (
                "[[stage]]\nrate = 1\nlength = '1s'\n[[stage]]\npause = '1s'\nto = 2\n",
                None,
                "stage 2 is neither",
            ),
            ("[[stage]]\nrate = -1\nlength = '1s'\n", None, "stage 1: rates are"),
            ("[[stage]]\npause = '1s'\n", None, "no stage sends"),
            ("[[stage]]\nrate = 1\nlength = '168h'\n[[stage]]\npause = '1s'\n", None, "at most 168h"),
            ("[[storm]]\nat = '1s'\nshare = 2.0\n", None, "share"),
            ("speed_up = 0.0\n[[stage]]\nrate = 1\nlength = '1s'\n", None, "speed_up"),
            ("slow_readers = { share = 0.5, bytes_per_s = 0 }\n", None, "slow_readers"),
            ("thresholds = ['speed<1']\n", None, "no figure"),
        ] {
            let sentence = Scenario::parse(text).unwrap_err();
            assert!(sentence.contains(words), "{text}: {sentence}");
            if let Some(line) = line {
                assert!(sentence.contains(&format!("line {line}")), "{text}: {sentence}");
            }
        }
        assert!(preset("one-to-two").unwrap_err().contains("one-to-one"));
    }
}
