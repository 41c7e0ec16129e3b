//! Which log: the embedded one in the data folder, or a Kafka cluster.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Which log a command works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogChoice {
    /// The one in the data folder.
    Embedded,
    /// Topics on the cluster with these brokers: `host:port` with commas between.
    Kafka(Arc<str>),
}

impl FromStr for LogChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        let Some(brokers) = text.strip_prefix("kafka://") else {
            return Err("a log is `embedded` or `kafka://HOST:PORT,…`".to_owned());
        };
        let brokers = brokers.trim_end_matches('/');
        for broker in brokers.split(',') {
            let is_address = broker.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            if !is_address {
                return Err(format!("{broker:?} is no HOST:PORT"));
            }
        }
        Ok(Self::Kafka(brokers.into()))
    }
}

impl fmt::Display for LogChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Kafka(brokers) => write!(f, "kafka://{brokers}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_embedded_or_names_brokers() {
        assert_eq!("embedded".parse(), Ok(LogChoice::Embedded));
        let two = "kafka://a:9092,[::1]:9093/".parse::<LogChoice>();
        assert_eq!(two, Ok(LogChoice::Kafka("a:9092,[::1]:9093".into())));
        for wrong in ["", "kafka", "kafka://", "kafka://a", "kafka://a:0", "kafka://a:9092,", "http://a:9092"]
        {
            assert!(wrong.parse::<LogChoice>().is_err(), "{wrong}");
        }
    }
}
