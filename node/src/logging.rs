//! Log lines on standard error: pretty for people, JSON for machines. Standard output carries the ready line only.
//!
//! No bodies, tokens or text of a user are logged, and no span is opened per frame: whoever logs sees to it.

use std::io::IsTerminal as _;

use tracing::Dispatch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::exit::{Fatal, one_line};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people, in colour on a terminal.
    Pretty,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// What `log.format` means here: `auto` is pretty when standard error is a terminal.
    ///
    /// # Errors
    /// Status 2 for any other word.
    pub fn of(setting: &str) -> Result<Format, Fatal> {
        match setting {
            "pretty" => Ok(Format::Pretty),
            "json" => Ok(Format::Json),
            "auto" if std::io::stderr().is_terminal() => Ok(Format::Pretty),
            "auto" => Ok(Format::Json),
            other => Err(Fatal::config(format!("log.format \"{other}\" is not one of pretty, json, auto"))),
        }
    }
}

/// Sends what this process logs from now on to standard error. `level` is `log.level`, a level or a list such as
/// `info,carillon_gateway=debug`. Call once.
///
/// # Errors
/// Status 2 when `level` cannot be read, or logging was set up before.
pub fn init(format: Format, level: &str) -> Result<(), Fatal> {
    let dispatch = dispatch(format, level, std::io::stderr().is_terminal(), std::io::stderr)?;
    tracing::dispatcher::set_global_default(dispatch)
        .map_err(|error| Fatal::config(format!("logging is set up already ({error})")))
}

fn dispatch<W>(format: Format, level: &str, colour: bool, writer: W) -> Result<Dispatch, Fatal>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse(level).map_err(|error| {
        let because = one_line(error.to_string());
        Fatal::config(format!(
            "log.level \"{level}\" cannot be read ({because}): write a level such as info, or \
             info,carillon_gateway=debug"
        ))
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        Format::Pretty => Dispatch::new(lines.with_ansi(colour).finish()),
        // Fields beside the message, as every log collector expects them.
        Format::Json => Dispatch::new(lines.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, level: &str) -> String {
        let lines = Lines::default();
        let written = lines.clone();
        let dispatch = dispatch(format, level, false, move || lines.clone()).unwrap();
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!(slot = 7, "taken over");
            tracing::debug!("not at this level");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_object_a_line_and_pretty_has_no_colour_off_a_terminal() {
        let json = logged(Format::Json, "info");
        let line: serde_json::Value = serde_json::from_str(json.trim_end()).unwrap();
        assert_eq!(
            (&line["level"], &line["message"], &line["slot"]),
            (&"INFO".into(), &"taken over".into(), &7.into())
        );
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
        let pretty = logged(Format::Pretty, "warn,carillon_node=info");
        assert!(pretty.contains("taken over slot=7") && !pretty.contains('\u{1b}'), "{pretty}");
        assert_eq!(pretty.lines().count(), 1);
        assert_eq!(logged(Format::Json, "warn"), "");
    }

    #[test]
    fn settings_that_cannot_be_read_say_what_to_write() {
        assert_eq!(Format::of("json"), Ok(Format::Json));
        assert!(Format::of("auto").is_ok());
        assert!(Format::of("xml").unwrap_err().sentence.contains("pretty, json, auto"));
        let fatal = dispatch(Format::Json, "carillon=loud", false, io::sink).map(drop).unwrap_err();
        assert!(fatal.sentence.starts_with("log.level \"carillon=loud\" cannot be read"), "{fatal}");
        assert_eq!(fatal.sentence.lines().count(), 1);
    }
}
