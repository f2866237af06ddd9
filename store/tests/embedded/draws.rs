//! What tests draw from a seed.

use bytes::Bytes;

use super::support::{Batch, Rng};

impl Rng {
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A batch over few enough keys that they are written again and removed.
pub(crate) fn random_batch(rng: &mut Rng, rows_max: u64, value_bytes_max: u64) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..=rng.below(rows_max) {
        let key = format!("{}/{:03}", ["a", "c", "h", "zz"][rng.below(4) as usize], rng.below(60));
        let value = rng.chance(80).then(|| {
            let byte = rng.next() as u8;
            Bytes::from(vec![byte; rng.below(value_bytes_max) as usize])
        });
        batch.insert(Bytes::from(key), value);
    }
    batch
}
