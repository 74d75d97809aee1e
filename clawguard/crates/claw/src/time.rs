//! RFC 3339 instants.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// An instant: nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// Parses an RFC 3339 date-time as V8 reads it, with any offset: no leap seconds. Before 1970 there is nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // The library takes anything between date and time.
        let leap = text.get(17..19) == Some("60");
        if leap || !matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' ')) {
            return None;
        }
        let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        u64::try_from(time.unix_timestamp_nanos()).ok().map(Self)
    }

    /// As RFC 3339 in UTC with milliseconds, the way Claw writes it: `2026-03-01T00:00:00.000Z`.
    #[must_use]
    pub fn format(self) -> String {
        let Ok(time) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0)) else {
            return String::from("9999-12-31T23:59:59.999Z");
        };
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.millisecond()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Instant;

    #[test]
    fn between_date_and_time_is_what_v8_reads_and_nothing_else() {
        let at = |text: &str| Instant::parse(text);
        for byte in 0..=0x7f_u8 {
            let text = format!("2026-03-01{}00:00:00Z", char::from(byte));
            assert_eq!(at(&text).is_some(), matches!(byte, b'T' | b't' | b' '), "{text:?}");
        }
        for wrong in ["2026-03-01é00:00:00Z", "2026-03-01TT00:00:00Z", "2016-12-31T23:59:60Z", "2016-12-31T23:59:60.5Z"]
        {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn instants_round_trip() {
        let text = "2026-03-01T00:00:00.000Z";
        assert_eq!(Instant::parse(text).unwrap().format(), text);
        assert_eq!(Instant::parse("2026-03-01T01:00:00+01:00"), Instant::parse(text));
        for wrong in ["2026-03-01", "2026-03-01T00:00:00", "yesterday", "1969-12-31T23:59:59Z", ""] {
            assert_eq!(Instant::parse(wrong), None, "{wrong}");
        }
    }
}
