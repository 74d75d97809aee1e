//! RFC 3339 instants.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// An instant: nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// Parses an RFC 3339 date-time, with any offset. Before 1970 there is nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
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
    fn instants_round_trip() {
        let text = "2026-03-01T00:00:00.000Z";
        assert_eq!(Instant::parse(text).unwrap().format(), text);
        assert_eq!(Instant::parse("2026-03-01T01:00:00+01:00"), Instant::parse(text));
        for wrong in ["2026-03-01", "2026-03-01T00:00:00", "yesterday", "1969-12-31T23:59:59Z", ""] {
            assert_eq!(Instant::parse(wrong), None, "{wrong}");
        }
    }
}
