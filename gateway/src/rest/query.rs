//! What stands behind `?`: names and values, percent-encoded as forms are (WHATWG URL standard, section 5).

use carillon_protocol::ids::{SEQ_MAX, Seq};
use carillon_protocol::limits::{PAGE_EVENTS_DEFAULT, PAGE_EVENTS_MAX};
use carillon_protocol::reason::Refusal;

/// The parameters of a query. Unknown ones are ignored; one given twice is refused when it is asked for. One without a
/// value counts as absent, so that a form or a template may send all of them: `?cursor=&limit=50`.
pub(crate) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub(crate) fn new(text: &'a str) -> Query<'a> {
        Query(text)
    }

    /// A parameter, decoded; `None` when it is absent or empty.
    ///
    /// # Errors
    /// Given twice, or not UTF-8 behind its percent signs.
    pub(crate) fn text(&self, field: &'static str) -> Result<Option<String>, Refusal> {
        let mut values = self.0.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, true).as_deref() == Some(field)).then_some(value)
        });
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Refusal::field(field, format!("{field} may be given only once")));
        }
        let malformed = || Refusal::field(field, format!("{field} is not UTF-8, percent-encoded"));
        let value = decode(value, true).ok_or_else(malformed)?;
        Ok(Some(value).filter(|value| !value.is_empty()))
    }

    /// A seq of at least 0.
    pub(crate) fn seq(&self, field: &'static str) -> Result<Option<Seq>, Refusal> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let seq = text.parse().ok().filter(|seq| digits && *seq <= SEQ_MAX);
        seq.map(Some)
            .ok_or_else(|| Refusal::field(field, format!("{field} must be an integer of at least 0")))
    }

    /// `limit`: any number will do, what is out of range is clamped.
    pub(super) fn limit(&self) -> Result<u32, Refusal> {
        let Some(text) = self.text("limit")? else { return Ok(PAGE_EVENTS_DEFAULT) };
        let number: Option<f64> = text.parse().ok().filter(|number: &f64| number.is_finite());
        let number = number.ok_or_else(|| Refusal::field("limit", "limit must be a number, 1 to 200"))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
        Ok(number.clamp(1.0, f64::from(PAGE_EVENTS_MAX)) as u32)
    }
}

/// `None` when it is not UTF-8. A percent sign without two digits stands for itself; in a form (a query) a plus is a
/// space, in a path it is a plus.
pub(super) fn decode(text: &str, is_form: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'+', _) if is_form => bytes.push(b' '),
            (b'%', [high, low, behind @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = behind;
                }
                _ => bytes.push(b'%'),
            },
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::new("username=J%C3%BCrgen+M%2bller%&limit=1e1&x&after_seq=7&cursor=&%63ut=1");
        assert_eq!(query.text("username").unwrap().as_deref(), Some("Jürgen M+ller%"));
        assert_eq!((query.limit(), query.seq("after_seq")), (Ok(10), Ok(Some(7))));
        assert_eq!((query.text("cursor"), query.text("x")), (Ok(None), Ok(None)), "empty counts as absent");
        assert_eq!((query.text("cut"), query.text("absent")), (Ok(Some("1".to_owned())), Ok(None)));
    }

    #[test]
    fn limits_are_clamped_and_nonsense_is_refused() {
        for (text, expected) in
            [("", 50), ("limit=", 50), ("limit=0", 1), ("limit=-5", 1), ("limit=1e9", 200), ("limit=7.9", 7)]
        {
            assert_eq!(Query::new(text).limit(), Ok(expected), "{text}");
        }
        for text in ["limit=ten", "limit=nan", "limit=inf", "limit=1&limit=2"] {
            assert_eq!(Query::new(text).limit().unwrap_err().field, Some("limit"), "{text}");
        }
        for text in ["seq=-1", "seq=+1", "seq=1.0", "seq=9223372036854775808", "seq=%ff"] {
            assert_eq!(Query::new(text).seq("seq").unwrap_err().field, Some("seq"), "{text}");
        }
    }
}
