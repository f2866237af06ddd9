//! What came of all rounds.

use crate::DEPTHS;
use crate::engine::Engine;

/// What one round of an engine came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Microseconds of the server's CPU a message, by depth.
    pub cpu_us: [f64; DEPTHS.len()],
    /// Messages a second, by depth.
    pub per_s: [f64; DEPTHS.len()],
    /// Memory of an idle connection.
    pub idle_bytes: f64,
}

/// Everything measured so far.
#[derive(Default)]
pub struct Rounds {
    samples: Vec<(Engine, Sample)>,
    refused: Vec<(Engine, String)>,
}

impl Rounds {
    /// A round of an engine.
    pub fn add(&mut self, engine: Engine, sample: Sample) {
        self.samples.push((engine, sample));
    }

    /// It does not run here.
    pub fn refuse(&mut self, engine: Engine, why: String) {
        self.refused.push((engine, why));
    }

    /// Whether it does not run here.
    pub fn is_refused(&self, engine: Engine) -> bool {
        self.refused.iter().any(|(refused, _)| *refused == engine)
    }

    /// One figure of an engine, round by round.
    fn figure(&self, engine: Engine, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let own = self.samples.iter().filter(|(of, _)| *of == engine);
        own.map(|(_, sample)| figure(sample)).collect()
    }

    /// Prints the table. `false`: a median is above its bound.
    pub fn tell(&self, engines: &[Engine]) -> bool {
        let mut is_good = true;
        for (place, depth) in DEPTHS.into_iter().enumerate() {
            let floor = self.figure(Engine::RawRing, |sample| sample.cpu_us[place]);
            println!("\n{depth} on their way on each connection:\n");
            println!(
                "| engine | us of CPU a message: min · median · max | of the raw ring's: min · median · max | messages/s, median | |"
            );
            println!("|---|---|---|---:|---|");
            for &engine in engines {
                if let Some((_, why)) = self.refused.iter().find(|(refused, _)| *refused == engine) {
                    println!("| {} | does not run here: {why} | | | |", engine.name());
                    continue;
                }
                let cpu_us = self.figure(engine, |sample| sample.cpu_us[place]);
                let ratios: Vec<f64> =
                    cpu_us.iter().zip(&floor).map(|(cpu_us, floor)| cpu_us / floor).collect();
                let [_, per_s, _] = spread(&self.figure(engine, |sample| sample.per_s[place]));
                let verdict = engine.ratio_max(depth).map(|ratio_max| {
                    let is_within = spread(&ratios)[1] <= ratio_max;
                    is_good &= is_within;
                    format!("{} {ratio_max}", if is_within { "within" } else { "ABOVE" })
                });
                println!(
                    "| {} | {} | {} | {per_s:.0} | {} |",
                    engine.name(),
                    told(&cpu_us, 2),
                    told(&ratios, 2),
                    verdict.unwrap_or_default()
                );
            }
        }
        println!("\n| engine | bytes of user memory for an idle connection: min · median · max |\n|---|---|");
        for &engine in engines.iter().filter(|engine| !self.is_refused(**engine)) {
            println!("| {} | {} |", engine.name(), told(&self.figure(engine, |sample| sample.idle_bytes), 0));
        }
        is_good
    }
}

/// Least, median, most.
fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return [f64::NAN; 3] };
    [sorted[0], (sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0, sorted[last]]
}

fn told(values: &[f64], decimals: usize) -> String {
    spread(values).map(|value| format!("{value:.decimals$}")).join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_decides() {
        let check = |floor: &[f64], gateway: &[f64], expected| {
            let mut rounds = Rounds::default();
            for (engine, values) in [(Engine::RawRing, floor), (Engine::GatewayUring, gateway)] {
                for value in values {
                    rounds.add(engine, Sample { cpu_us: [*value; 2], ..Sample::default() });
                }
            }
            assert_eq!(rounds.tell(&[Engine::RawRing, Engine::GatewayUring]), expected, "{gateway:?}");
        };
        check(&[1.0, 2.0, 4.0], &[1.1, 2.2, 40.0], true);
        check(&[1.0, 2.0, 4.0], &[1.1, 2.4, 4.8], false);
        assert_eq!(spread(&[3.0, 1.0, 2.0, 10.0]), [1.0, 2.5, 10.0]);
    }
}
