//! The broker's settings: one node that is broker and controller, small, and quick to come back.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use crate::error::BrokerError;
use crate::tls::{self, Validity};

/// What stays the same for every broker. Values that differ from Kafka's defaults say why.
const COMMON: &str = "\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT

# The protected listener. Its SCRAM user is made when the data is.
sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.plain.sasl.jaas.config=\
  org.apache.kafka.common.security.plain.PlainLoginModule required user_@USER@=\"@PASSWORD@\";
ssl.keystore.type=PEM
ssl.keystore.location=@FOLDER@/tls/server.pem
ssl.truststore.type=PEM
ssl.truststore.location=@FOLDER@/tls/ca.pem

# One copy of everything.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1

# A misspelt topic has to fail.
auto.create.topics.enable=false
num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000

# A small machine, on which hundreds of small partitions come and go.
num.network.threads=2
num.io.threads=4
background.threads=2
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=4194304
log.index.size.max.bytes=1048576

# Transactions whose owner died end soon.
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000

# A killed broker is refused under its name until its old session is over.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
";

const LOGGER: &str = "\
status = warn
appender.c.type = Console
appender.c.name = C
appender.c.layout.type = PatternLayout
appender.c.layout.pattern = %d{HH:mm:ss.SSS} %-5p [%t] %c{1} %m%n
rootLogger.level = info
rootLogger.appenderRef.c.ref = C
";

/// Where a broker listens on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    /// For clients.
    pub(crate) clients: u16,
    /// For clients that prove who they are, over TLS.
    pub(crate) secured: u16,
    /// For the controller, which is the broker itself.
    pub(crate) controller: u16,
}

impl Ports {
    /// Ports that nobody listens on. Somebody else may take one before the broker does.
    pub(crate) fn free() -> Result<Self, BrokerError> {
        let listen = || {
            let listener = TcpListener::bind(("127.0.0.1", 0));
            listener.map_err(|source| BrokerError::Io { what: "find a free port".to_owned(), source })
        };
        // All are held until all are known, so that they differ.
        let (clients, secured, controller) = (listen()?, listen()?, listen()?);
        let port = |listener: &TcpListener| {
            let address = listener.local_addr().map(|address| address.port());
            address.map_err(|source| BrokerError::Io { what: "find a free port".to_owned(), source })
        };
        Ok(Self { clients: port(&clients)?, secured: port(&secured)?, controller: port(&controller)? })
    }
}

/// Writes the settings of a broker whose data lies in `folder`, those of its logger, and its certificates.
pub(crate) fn write(folder: &Path, ports: Ports, validity: Validity) -> Result<(), BrokerError> {
    let Ports { clients, secured, controller } = ports;
    let common = COMMON
        .replace("@FOLDER@", &folder.display().to_string())
        .replace("@USER@", tls::USER)
        .replace("@PASSWORD@", tls::PASSWORD);
    let data = folder.join("data");
    let text = format!(
        "listeners=PLAINTEXT://127.0.0.1:{clients},SASL_SSL://127.0.0.1:{secured},\
         CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{clients},SASL_SSL://127.0.0.1:{secured}\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         log.dirs={}\n{common}",
        data.display()
    );
    for (name, text) in [("server.properties", text.as_str()), ("log4j2.properties", LOGGER)] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(BrokerError::io("write", &path))?;
    }
    tls::make(folder, validity)
}
