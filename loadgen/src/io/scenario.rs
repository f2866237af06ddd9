//! Where a run is written down: a scenario from a file or a preset, written into the options.

use std::fs;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::Outcome;
use crate::cli::Source;
use crate::options::Options;
use crate::report::GOOD;
use crate::scenario::{PRESETS, Scenario, preset};

/// Writes the scenario that is named, if one is, into the options, except what the command line gave.
///
/// # Errors
/// What is wrong with it.
pub fn apply(source: &Source, given: &ArgMatches, options: &mut Options) -> Result<(), String> {
    let (name, text) = match (&source.scenario, &source.preset) {
        (Some(path), _) => {
            let name = path.display().to_string();
            let text = fs::read_to_string(path).map_err(|error| format!("{name} cannot be read: {error}"))?;
            (name, text)
        }
        (None, Some(name)) => (name.clone(), preset(name)?.text.to_owned()),
        (None, None) => return Ok(()),
    };
    let is_given = |id: &str| given.value_source(id) == Some(ValueSource::CommandLine);
    let wrong = |words| format!("{name}: {words}");
    let scenario = Scenario::parse(&text).map_err(wrong)?;
    if !scenario.needs.is_empty() {
        eprintln!("{name} needs a server started with --set {}", scenario.needs.join(" --set "));
    }
    scenario.apply(&name, options, is_given).map_err(wrong)
}

/// `loadgen presets`.
#[must_use]
pub fn presets(name: Option<&str>) -> Outcome {
    match name.map(preset) {
        Some(Ok(preset)) => told(preset.text.trim_end().to_owned()),
        Some(Err(sentence)) => Outcome::refused(&sentence),
        None => {
            let lines = PRESETS.iter().map(|preset| {
                let scenario = Scenario::parse(preset.text);
                let (about, needs) = scenario.map(|it| (it.about, it.needs)).unwrap_or_default();
                let needs =
                    if needs.is_empty() { String::new() } else { format!(" (--set {})", needs.join(" ")) };
                format!("{:<17}{about}{needs}", preset.name)
            });
            told(lines.collect::<Vec<_>>().join("\n"))
        }
    }
}

fn told(text: String) -> Outcome {
    Outcome { exit: GOOD, report: None, text, is_refusal: false }
}
