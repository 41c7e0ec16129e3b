//! Quantities that carry their unit in the type.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// A number of bytes. Read from a number or from text such as `8GiB`, `512 MiB`, `1.5GiB`, `64kB`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

/// Why a text is not a number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a size: write a number of bytes or one with a unit, such as 512MiB or 8GiB")]
pub struct ParseByteCountError {
    text: String,
}

/// The most decimals that a size is written with.
const DECIMALS_MAX: usize = 9;

impl ByteCount {
    /// `count` binary megabytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The plain number.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Rounded up to whole binary megabytes, as a setting or a flag takes it: `11MiB`.
    pub fn as_setting(self) -> String {
        format!("{}MiB", self.0.div_ceil(1 << 20))
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1024 => write!(f, "{} B", self.0),
            1024..1_048_576 => write!(f, "{:.1} KiB", bytes / 1024.0),
            1_048_576..1_073_741_824 => write!(f, "{:.1} MiB", bytes / 1_048_576.0),
            _ => write!(f, "{:.2} GiB", bytes / 1_073_741_824.0),
        }
    }
}

impl FromStr for ByteCount {
    type Err = ParseByteCountError;

    fn from_str(text: &str) -> Result<Self, ParseByteCountError> {
        let refuse = || ParseByteCountError { text: text.to_owned() };
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "kib" | "k" => 1 << 10,
            "mib" | "m" => 1 << 20,
            "gib" | "g" => 1 << 30,
            _ => return Err(refuse()),
        };
        let whole: u64 = whole.parse().map_err(|_| refuse())?;
        if decimals.is_empty() || decimals.len() > DECIMALS_MAX || decimals.contains('.') {
            return Err(refuse());
        }
        let part: u64 = decimals.parse().map_err(|_| refuse())?;
        let of = 10_u64.pow(u32::try_from(decimals.len()).map_err(|_| refuse())?);
        // Rounded up: who asks for what was printed gets no less.
        let part = (u128::from(part) * u128::from(factor)).div_ceil(u128::from(of));
        let bytes = u128::from(whole) * u128::from(factor) + part;
        u64::try_from(bytes).map(Self).map_err(|_| refuse())
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum NumberOrText {
            Number(u64),
            Text(String),
        }
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(bytes) => Ok(Self(bytes)),
            NumberOrText::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// A share or a grade in [0, 1]. Values outside are clamped when made, a NaN becomes 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Score(f64);

impl Score {
    /// The worst score.
    pub const ZERO: Self = Self(0.0);
    /// The best score.
    pub const ONE: Self = Self(1.0);

    /// `value` brought into [0, 1].
    pub fn new(value: f64) -> Self {
        if value.is_nan() { Self::ZERO } else { Self(value.clamp(0.0, 1.0)) }
    }

    /// The number in [0, 1].
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Score {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        assert_eq!("8GiB".parse(), Ok(ByteCount(8 << 30)));
        assert_eq!("512 MiB".parse(), Ok(ByteCount::mib(512)));
        assert_eq!("64kB".parse(), Ok(ByteCount(64_000)));
        assert_eq!("17".parse(), Ok(ByteCount(17)));
        assert_eq!("1.5GiB".parse(), Ok(ByteCount(3 << 29)));
        assert_eq!("10.9 MiB".parse(), Ok(ByteCount(11_429_479)));
        for wrong in ["1.", ".5GiB", "1.2.3MiB", "1.0000000001GiB", "-1"] {
            assert!(wrong.parse::<ByteCount>().is_err(), "{wrong}");
        }
        assert!("lots".parse::<ByteCount>().is_err());
        assert!("99999999999GiB".parse::<ByteCount>().is_err());
    }

    #[test]
    fn a_size_as_a_setting_is_read_as_no_less() {
        for bytes in [0, 1, 1 << 20, (1 << 20) + 1, 11_429_479] {
            let read: ByteCount = ByteCount(bytes).as_setting().parse().unwrap();
            assert!(read.0 >= bytes && read.0 < bytes + (1 << 20), "{read}");
        }
    }

    #[test]
    fn a_score_is_always_between_zero_and_one() {
        assert_eq!(Score::new(f64::NAN), Score::ZERO);
        assert_eq!(Score::new(-3.0), Score::ZERO);
        assert_eq!(Score::new(3.0), Score::ONE);
    }
}
