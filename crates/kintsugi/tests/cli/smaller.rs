//! Mistakes about the smaller model, and what its settings look like.

use super::half_model::{half_a_model, patch};
use super::mistakes::{Attempt, with};
use super::{ask, join};

/// A small example with half a model beside it.
fn with_half(files: &[(&str, &str)]) -> Attempt {
    let attempt = with(files);
    std::fs::write(attempt.path().join("half.gguf"), half_a_model()).unwrap();
    attempt
}

const SMALLER: [&str; 2] = ["--smaller-model", "half.gguf"];

#[test]
fn a_smaller_model_that_cannot_be_used_is_named() {
    let model = |name: &str, words: &[&str]| {
        let words = join(&[&["flag --smaller-model: "], words]);
        with(&[]).flags(&["--smaller-model", name]).is_refused(3, &words);
    };
    model("gone.gguf", &["there is no model \"gone.gguf\"", "give the path of a GGUF file"]);
    model("desk/goals.jsonl", &["desk/goals.jsonl is damaged", "fetch the file again"]);
    let cut = with(&[]);
    let whole = half_a_model();
    std::fs::write(cut.path().join("cut.gguf"), &whole[..whole.len() / 2]).unwrap();
    cut.flags(&["--smaller-model", "cut.gguf"])
        .is_refused(3, &["flag --smaller-model: ", "cut.gguf is damaged", "fetch the file again"]);
    with(&[("kintsugi.toml", "[model.smaller]\nname = \"gone.gguf\"\n")])
        .is_refused(3, &["desk/kintsugi.toml:2: ", "\"gone.gguf\""]);
    // A node refuses it as a run does.
    let attempt = with(&[]);
    ask(attempt.path(), &["up", "desk", "--listen", "127.0.0.1:0", "--smaller-model", "gone.gguf"])
        .is_refused(3, &["flag --smaller-model: ", "\"gone.gguf\""]);
}

#[test]
fn a_smaller_model_that_is_not_smaller_is_refused() {
    with(&[])
        .flags(&["--smaller-model", "kintsugi-nano"])
        .is_refused(2, &["\"kintsugi-nano\" is no smaller model: its weights take", "leave the setting out"]);
    // The other way round it is.
    with_half(&[])
        .flags(&["--model", "half.gguf", "--smaller-model", "kintsugi-nano"])
        .is_refused(2, &["\"kintsugi-nano\" is no smaller model", "those of \"half.gguf\""]);
    // Events could not tell which of the two answered.
    let attempt = with(&[]);
    let mut namesake = half_a_model();
    patch(&mut namesake, "general.name", b"kintsugi-half", b"kintsugi-nano");
    std::fs::write(attempt.path().join("kintsugi-nano.gguf"), namesake).unwrap();
    attempt
        .flags(&["--smaller-model", "kintsugi-nano.gguf"])
        .is_refused(2, &["both call themselves \"kintsugi-nano\"", "give the file another name"]);
}

#[test]
fn a_mistake_in_the_settings_of_the_smaller_model_is_told_with_its_place() {
    let settings = |text: &str, words: &[&str]| {
        let words = join(&[&["desk/kintsugi.toml"], words]);
        with_half(&[("kintsugi.toml", text)]).is_refused(2, &words);
    };
    settings("[model.smaller]\nnmae = \"half.gguf\"\n", &["line 2", "`nmae`", "did you mean `name`?"]);
    settings("[model]\nsmaler = { name = \"half.gguf\" }\n", &["did you mean `smaller`?"]);
    settings("[model]\nsmaller = \"half.gguf\"\n", &["line 2", "invalid type"]);
    for share in ["0.0", "1.0", "nan", "-0.5"] {
        let text = format!("[model.smaller]\nname = \"half.gguf\"\nmemory_share = {share}\n");
        settings(&text, &[":3: ", "`model.smaller.memory_share` is", "above 0 and below 1"]);
    }
    settings(
        "[model.smaller]\nmemory_share = 0.5\n",
        &[":2: ", "`model.smaller.memory_share` is 0.5", "left out where model.smaller.name names no model"],
    );
    with(&[])
        .variable("KINTSUGI_MODEL__SMALLER__MEMORY_SHARE", "2")
        .flags(&SMALLER)
        .is_refused(2, &["variable KINTSUGI_MODEL__SMALLER__MEMORY_SHARE: ", "is 2"]);
    with(&[])
        .variable("KINTSUGI_MODEL_SMALLER_NAME", "half.gguf")
        .is_refused(2, &["did you mean `KINTSUGI_MODEL__SMALLER__NAME`?"]);
}

#[test]
fn a_budget_without_room_for_both_models_is_refused_and_what_is_advised_is_enough() {
    let attempt = with_half(&[]);
    let arguments = ["run", "desk", "--data-dir", "data", "--quiet", "--smaller-model", "half.gguf"];
    // Which of the two has too little, and the variable that divides the budget.
    for (share, starved) in
        [("0.1", "half.gguf has 4.0 MiB of it"), ("0.9", "kintsugi-nano has 4.0 MiB of it")]
    {
        let run = |budget: &str| {
            let mut command = super::kintsugi(&join(&[&arguments, &["--memory-budget", budget]]));
            command.env("KINTSUGI_MODEL__SMALLER__MEMORY_SHARE", share).current_dir(attempt.path());
            super::said(&mut command)
        };
        let told = run("40MiB");
        let words =
            ["flag --memory-budget: ", "memory budget of 40.0 MiB is too small for both models: ", starved];
        told.is_refused(2, &words);
        told.is_refused(2, &["weights", "model.smaller.memory_share is ", share]);
        assert!(!attempt.path().join("data").exists(), "a refused start left its folder behind");
        let (_, advice) = told.err.split_once("(--memory-budget ").unwrap();
        let (advised, _) = advice.split_once(')').unwrap();
        assert!(run(advised).done().starts_with("1 goals"), "{advised} is not enough");
        std::fs::remove_dir_all(attempt.path().join("data")).unwrap();
    }
}

#[test]
fn a_prompt_that_the_smaller_model_has_no_room_for_is_told_before_any_goal() {
    let attempt = with(&[]);
    let mut short = half_a_model();
    patch(&mut short, "llama.context_length", &1024u32.to_le_bytes(), &100u32.to_le_bytes());
    std::fs::write(attempt.path().join("half.gguf"), short).unwrap();
    attempt.flags(&SMALLER).is_refused(
        2,
        &[
            "desk/agents/echo.toml: ",
            "the context of the smaller model kintsugi-half has 100",
            "takes no longer one",
        ],
    );
}

/// A line without its columns.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_settings_of_the_smaller_model_are_shown_with_their_origins_and_only_where_there_is_one() {
    let attempt = with_half(&[("kintsugi.toml", "[model.smaller]\n\nname = \"gone.gguf\"\n")]);
    let shown = |arguments: &[&str]| {
        let told = ask(attempt.path(), &join(&[&["up", "--print-config"], arguments]));
        told.done().lines().filter(|line| line.starts_with("model.smaller")).map(words).collect::<Vec<_>>()
    };
    let share = "model.smaller.memory_share = 0.25 # default".to_owned();
    let file = "model.smaller.name = \"gone.gguf\" # desk/kintsugi.toml:3".to_owned();
    assert_eq!(shown(&["desk"]), [share.clone(), file]);
    let flag = "model.smaller.name = \"half.gguf\" # --smaller-model".to_owned();
    assert_eq!(shown(&join(&[&["desk"], &SMALLER])), [share, flag]);
    std::fs::remove_file(attempt.path().join("desk/kintsugi.toml")).unwrap();
    assert!(shown(&["desk"]).is_empty());
}
