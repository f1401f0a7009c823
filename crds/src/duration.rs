//! [`Duration`]: a length of time as the API spells it, `1h30m`, and never longer than ten years.
//!
//! An object that was stored under another schema, or by a definition that was loosened, is read all the same: a
//! length beyond the bound reads as the bound, for nobody can tell ten years from for ever.

use std::{fmt, str::FromStr, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Whole seconds, at most [`Duration::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(time::Duration);

/// Why a text is no [`Duration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration: write such as 1h, 30m or 90s")]
pub struct DurationError {
    text: String,
}

const HOUR: u64 = 3600;

impl Duration {
    /// Ten years: a time and one of these can be added within what clocks and calendars hold.
    pub const MAX: Self = Self(time::Duration::from_secs(87_600 * HOUR));

    pub const fn from_secs(seconds: u64) -> Self {
        let longest = Self::MAX.0.as_secs();
        Self(time::Duration::from_secs(if seconds < longest { seconds } else { longest }))
    }
}

impl From<Duration> for time::Duration {
    fn from(Duration(duration): Duration) -> Self {
        duration
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let malformed = || DurationError { text: text.to_owned() };
        if text.is_empty() {
            return Err(malformed());
        }
        let mut seconds = 0u64;
        for part in text.split_inclusive(['h', 'm', 's']) {
            let (digits, unit) = [('h', HOUR), ('m', 60), ('s', 1)]
                .into_iter()
                .find_map(|(letter, unit)| Some((part.strip_suffix(letter)?, unit)))
                .ok_or_else(malformed)?;
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(malformed());
            }
            // More digits than a number holds are more than the bound.
            let count: u64 = digits.parse().unwrap_or(u64::MAX);
            seconds = seconds.saturating_add(count.saturating_mul(unit));
        }
        Ok(Self::from_secs(seconds))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// The API server's own `duration()` holds 292 years: what is longer is an error, and refused as well.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^([0-9]+(h|m|s))+$') && duration(self) <= duration('87600h')",
                "message": "must be a duration such as 1h, 30m or 90s, of at most ten years (87600h)",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_is_read_as_the_api_server_reads_it_and_one_beyond_the_bound_as_the_bound() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(text.parse::<Duration>().ok(), expected.map(Duration::from_secs), "{text:?}");
        };
        check("1h", Some(3600));
        check("1h30m5s", Some(5405));
        check("0s", Some(0));
        check("87600h", Some(315_360_000));
        for long in ["87601h", "9999999999999999h", "99999999999999999999999999999999s", "87600h87600h"] {
            assert_eq!(long.parse(), Ok(Duration::MAX), "{long:?}");
        }
        for bad in ["", "1", "h", "1d", "-1h", "+1h", "1.5h", "1h30", "1 h", "10ms", "1hh", "١h"] {
            check(bad, None);
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in "([0-9]{1,31}(h|m|s)){0,4}.?") {
            if let Ok(duration) = text.parse::<Duration>() {
                prop_assert!(duration <= Duration::MAX);
                prop_assert_eq!(duration.to_string().parse::<Duration>(), Ok(duration));
            }
        }
    }
}
