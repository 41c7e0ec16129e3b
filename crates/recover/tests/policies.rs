//! Reading policies files and choosing among policies.
#![expect(clippy::unwrap_used, reason = "a test that cannot build its input shall fail")]

use kintsugi_events::RecoveryAction;
use kintsugi_recover::{Conditions, Parameters, PolicySet};

/// The error of `text` as it is printed.
#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(PolicySet::parse(text, "recovery.yaml").unwrap_err().to_string(), expected);
}

#[test]
fn the_shipped_policies_can_be_read_and_leave_the_rest_to_the_cascade() {
    let builtin = PolicySet::builtin();
    assert!(builtin.policies().len() > 10, "the default was taken");
    let example = include_str!("../../../examples/support-desk/policies/recovery.yaml");
    let example = PolicySet::parse(example, "recovery.yaml").unwrap();
    for set in [&builtin, &example] {
        assert!(set.policies().iter().all(|policy| policy.when != Conditions::default()), "{set:?}");
        assert_eq!(set.cascade.turns_kept, Some(10));
    }
    let find = |name: &str| builtin.policies().iter().find(|policy| policy.name == name).unwrap().clone();
    let designed = [
        ("reset-fallen-quality", 10, RecoveryAction::ResetState),
        ("wait-for-tool", 10, RecoveryAction::CircuitBreaker),
        ("simple-replies", 9, RecoveryAction::DegradeGracefully),
        ("retry-tool-failure", 8, RecoveryAction::RetryWithBackoff),
        ("prune-drifted-context", 7, RecoveryAction::PruneContext),
    ];
    for (name, priority, action) in designed {
        assert_eq!((find(name).priority, find(name).action), (priority, action), "{name}");
    }
    let Parameters { open_ms, half_open_ms, .. } = find("wait-for-tool").parameters;
    assert_eq!((open_ms, half_open_ms), (300_000, 60_000));
    let retry = find("retry-tool-failure").parameters;
    assert_eq!((retry.attempts, retry.first_delay_ms), (3, 5_000));
    assert_eq!(find("prune-drifted-context").parameters.turns_kept, Some(10));
}

#[test]
fn policies_are_tried_by_priority_and_equals_as_written() {
    let text = "policies:
  - { name: low, priority: 1, action: monitor }
  - { name: first, priority: 5, action: retry }
  - { name: second, priority: 5, action: reset_state }
";
    let set = PolicySet::parse(text, "recovery.yaml").unwrap();
    let order: Vec<_> = set.policies().iter().map(|policy| (policy.name.as_str(), policy.action)).collect();
    assert_eq!(
        order,
        [
            ("first", RecoveryAction::Retry),
            ("second", RecoveryAction::ResetState),
            ("low", RecoveryAction::Monitor)
        ]
    );
}

#[test]
fn a_mistake_is_told_with_its_place_and_what_was_meant() {
    check(
        "policies:\n  - name: a\n    prioritty: 1\n    action: retry\n",
        "recovery.yaml:3:5: unknown field \"prioritty\", did you mean \"priority\"?",
    );
    check(
        "policies:\n  - name: a\n    priority: 1\n    action: retry_with_backof\n",
        "recovery.yaml:4:13: unknown value \"retry_with_backof\", did you mean \"retry_with_backoff\"?",
    );
    check(
        "policies:\n  - name: a\n    priority: 1\n    when: { fault: loop, error_tier: zzz }\n    action: retry\n",
        "recovery.yaml:4:13: unknown field \"fault\", did you mean \"fault_type\"?",
    );
    check(
        "policies:\n  - name: a\n    priority: 1\n    when: { subject: zzz }\n    action: retry\n",
        "recovery.yaml:4:22: unknown value \"zzz\", expected one of agent, tool, model, engine",
    );
    check("policies:\n  - priority: 1\n    action: retry\n", "recovery.yaml:3:5: missing field `name`");
    check(
        "policies:\n  - name: a\n    priority: high\n    action: retry\n",
        "recovery.yaml:3:15: invalid i32",
    );
    check("rules: []\n", "recovery.yaml:1:1: unknown field \"rules\", expected one of policies, cascade");
}

#[test]
fn a_policy_that_makes_no_sense_is_refused() {
    let refused = |name: &str, parameters: &str, message: &str| {
        let text = format!(
            "policies:\n  - name: {name}\n    priority: 1\n    action: retry\n    parameters: {{ {parameters} }}\n"
        );
        check(&text, &format!("recovery.yaml:2:5: {message}"));
    };
    refused("a", "attempts: 0", "policy \"a\": attempts is 0, so it would never be used; remove the policy");
    refused("a", "factor: 0.5", "policy \"a\": factor is 0.5, at least 1 is needed");
    refused("a", "jitter: 1.5", "policy \"a\": jitter is 1.5, a share in [0, 1] is needed");
    refused(
        "a",
        "open_ms: 10, half_open_ms: 20",
        "policy \"a\": half_open_ms is 20, it cannot be longer than open_ms (10)",
    );
    refused("a", "deadline_ms: 0", "policy \"a\": half_open_ms and deadline_ms must be above 0");
    refused(
        "a",
        "first_delay_ms: 999999999999",
        "policy \"a\": first_delay_ms is 999999999999, at most a week (604800000) is allowed",
    );
    refused("\" \"", "attempts: 1", "the policy's name is empty");
    check(
        "policies:\n  - { name: a, priority: 1, action: retry }\n  - { name: a, priority: 2, action: retry }\n",
        "recovery.yaml:3:5: there is another policy named \"a\"",
    );
}
