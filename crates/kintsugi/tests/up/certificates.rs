//! A cluster whose certificate is no longer good, through the program that a user runs.

use std::process::{Command, Output};

use kintsugi_broker::{Broker, Secured};

use crate::cluster::Cluster;
use crate::common::example;
use crate::node::refused;

/// Sets up the way to a protected listener.
fn over_tls(command: &mut Command, listener: &Secured) -> Output {
    command
        .env("KINTSUGI_KAFKA__SECURITY", "sasl_ssl")
        .env("KINTSUGI_KAFKA__USERNAME", listener.user)
        .env("KINTSUGI_KAFKA__CA_FILE", &listener.authority)
        .env("KINTSUGI_KAFKA_PASSWORD", listener.password)
        .output()
        .unwrap()
}

#[test]
fn an_expired_certificate_ends_every_command_with_the_reason_and_what_to_look_at() {
    let broker = Broker::start_with_expired_certificate().unwrap();
    let expired = broker.secured();
    let good = kintsugi_broker::shared::secured().unwrap();
    // All that differs is how long the certificate is good.
    let made = over_tls(&mut Cluster::on(&good.bootstrap, "tls").command(&["topics", "create"]), &good);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let cluster = Cluster::on(&expired.bootstrap, "tls");
    let example = example();
    let example = example.to_str().unwrap();
    let look = format!("openssl s_client -connect {}", expired.bootstrap);
    let commands: [&[&str]; 5] = [
        &["topics", "create"],
        &["up", example, "--data-dir", "node", "--listen", "127.0.0.1:0"],
        &["run", example, "--data-dir", "run"],
        &["stage", "diagnose", example, "--data-dir", "stage"],
        &["goals", "list"],
    ];
    for arguments in commands {
        let mut command = cluster.command(arguments);
        command.env("KINTSUGI_STAGES__DIAGNOSE", "external");
        let output = over_tls(&mut command, &expired);
        refused(&output, 3, &["certificate", "expired", &expired.bootstrap, &look]);
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains(expired.password), "{arguments:?}");
    }
    assert!(!cluster.folder.path().join("run/manifest.json").exists(), "nothing was begun");
}
