//! HTTP tools against a server that misbehaves in every way that matters.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kintsugi_tools::{DatabaseSource, LoadContext, Registry, ToolCall, ToolError, ToolOutput};
use kintsugi_types::{EffectId, ErrorTier, SeededIds, ToolName};
use serde_json::{Value, json};

/// What the server does with each request, one after the other.
enum Act {
    /// Answers with this status line and headers, and this body.
    Answer(&'static str, String),
    /// Says nothing until the client gives up.
    Hang,
    /// Promises 20 MB and sends for as long as anybody reads.
    Flood,
    /// Closes the connection without a word.
    Close,
}

const FLOOD_BYTES: usize = 20 * 1024 * 1024;

struct Server {
    address: String,
    /// Each request as received.
    requests: Receiver<String>,
    /// How much of each flood was taken.
    flooded: Receiver<usize>,
}

impl Server {
    fn start(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (requests_in, requests) = channel();
        let (flooded_in, flooded) = channel();
        std::thread::spawn(move || {
            for act in acts {
                let Ok((stream, _)) = listener.accept() else { return };
                serve(stream, &act, &requests_in, &flooded_in);
            }
        });
        Self { address, requests, flooded }
    }
}

/// One request a connection: every answer closes it.
fn serve(stream: TcpStream, act: &Act, requests: &Sender<String>, flooded: &Sender<usize>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        request.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    request.push_str(&String::from_utf8(body).unwrap());
    requests.send(request).ok();
    let mut stream = stream;
    match act {
        Act::Answer(head, body) => {
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).ok();
        }
        Act::Hang => {
            // Ends when the client closes.
            reader.read_to_end(&mut Vec::new()).ok();
        }
        Act::Flood => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {FLOOD_BYTES}\r\n\r\n\"");
            let mut taken = 0;
            let chunk = vec![b'x'; 64 * 1024];
            if stream.write_all(head.as_bytes()).is_ok() {
                while taken < FLOOD_BYTES && stream.write_all(&chunk).is_ok() {
                    taken += chunk.len();
                }
            }
            flooded.send(taken).ok();
        }
        Act::Close => {}
    }
}

fn tool(server: &Server, lines: &str) -> Registry {
    let text = format!(
        "name = \"ask\"\nkind = \"http\"\ndescription = \"asks\"\nurl = \"http://{}/orders/{{order}}?q={{word}}\"\n{lines}\n\
         [parameters.properties.order]\n[parameters.properties.word]\n[bind]\nfrom = \"goal.input.from\"\n",
        server.address
    );
    load(&text).unwrap()
}

fn load(text: &str) -> Result<Registry, String> {
    let databases = DatabaseSource::Folder(PathBuf::from("unused"));
    let secrets = |name: &str| (name == "SHOP_TOKEN").then(|| "s3cret".to_owned());
    let documents = [(PathBuf::from("ask.toml"), text.to_owned())];
    Registry::from_documents(&documents, &LoadContext { databases: &databases, secrets: &secrets })
        .map_err(|errors| errors.to_string())
}

fn effect() -> EffectId {
    EffectId::new(&mut SeededIds::new(4))
}

fn ask(registry: &Registry, args: Value) -> Result<ToolOutput, ToolError> {
    let input = json!({"from": "mara@example.org"}).as_object().unwrap().clone();
    registry.call(&ToolName::new("ask").unwrap(), &ToolCall::new(effect(), args, input))
}

fn args() -> Value {
    json!({"order": 10482, "word": "lamp"})
}

fn ok(body: &str) -> Act {
    Act::Answer("200 OK", body.to_owned())
}

const GET: &str = "method = \"GET\"\nsafety = \"read_only\"";
const POST_KEYED: &str = "method = \"POST\"\nsafety = \"keyed\"";
const POST_UNKEYED: &str = "method = \"POST\"\nsafety = \"unkeyed\"";

#[test]
fn a_json_answer_comes_back_compact_and_other_text_as_a_string() {
    let server = Server::start(vec![ok("{ \"b\": 1,\n  \"a\": [ ] }"), ok("plain\n\"text\""), ok("")]);
    let registry = tool(&server, GET);
    assert_eq!(ask(&registry, args()).unwrap().text, r#"{"b":1,"a":[]}"#);
    assert_eq!(ask(&registry, args()).unwrap().text, r#""plain\n\"text\"""#);
    assert_eq!(ask(&registry, args()).unwrap().text, "null");
}

#[test]
fn arguments_stay_in_their_place_of_the_address() {
    let server = Server::start(vec![ok("1")]);
    let registry = tool(&server, GET);
    ask(&registry, json!({"order": "../../admin?x=1#y", "word": "a b&c=\u{e9}"})).unwrap();
    let request = server.requests.recv().unwrap();
    assert!(
        request.starts_with("GET /orders/..%2F..%2Fadmin%3Fx%3D1%23y?q=a%20b%26c%3D%C3%A9 HTTP/1.1\r\n"),
        "{request}"
    );
    let error = ask(&registry, json!({"order": "..", "word": ""})).unwrap_err();
    assert_eq!(error.tier, ErrorTier::Recoverable);
}

#[test]
fn secrets_and_bodies_are_sent_and_a_keyed_tool_sends_its_key() {
    let server = Server::start(vec![ok("{}"), ok("{}")]);
    let lines = format!(
        "{POST_KEYED}\nheaders = {{ Authorization = \"Bearer ${{SHOP_TOKEN}}\" }}\n\
         body = {{ order = \"{{order}}\", note = \"for {{word}} by {{from}}\", left_out = \"{{word}}\", fixed = [1, true] }}"
    );
    let registry = tool(&server, &lines);
    ask(&registry, json!({"order": 10482})).unwrap();
    let request = server.requests.recv().unwrap();
    let lower = request.to_lowercase();
    assert!(request.starts_with("POST /orders/10482?q= HTTP/1.1"), "{request}");
    assert!(lower.contains("authorization: bearer s3cret"), "{request}");
    assert!(lower.contains(&format!("idempotency-key: {}", effect())), "{request}");
    assert!(lower.contains("content-type: application/json"), "{request}");
    let body = r#"{"order":10482,"note":"for  by mara@example.org","fixed":[1,true]}"#;
    assert!(request.ends_with(body), "{request}");
    assert!(!format!("{registry:?}").contains("s3cret"), "a secret must not show in a debug print");

    let registry = tool(&server, GET);
    ask(&registry, args()).unwrap();
    assert!(!server.requests.recv().unwrap().to_lowercase().contains("idempotency-key"));
}

#[test]
fn a_request_without_a_body_says_its_length_where_one_could_follow() {
    let server = Server::start(vec![ok("1"), ok("1")]);
    ask(&tool(&server, POST_UNKEYED), args()).unwrap();
    let request = server.requests.recv().unwrap().to_lowercase();
    assert!(request.contains("content-length: 0") && !request.contains("transfer-encoding"), "{request}");
    ask(&tool(&server, GET), args()).unwrap();
    let request = server.requests.recv().unwrap().to_lowercase();
    assert!(!request.contains("content-length") && !request.contains("transfer-encoding"), "{request}");
}

#[test]
fn each_status_has_its_tier() {
    use ErrorTier::{Fatal, Recoverable, Transient};
    for (head, tier, code) in [
        ("408 Request Timeout", Transient, "http_408"),
        ("425 Too Early", Transient, "http_425"),
        ("429 Too Many Requests\r\nRetry-After: 7", Transient, "http_429"),
        ("500 Internal Server Error", Transient, "http_500"),
        ("503 Service Unavailable", Transient, "http_503"),
        ("401 Unauthorized", Fatal, "http_401"),
        ("403 Forbidden", Fatal, "http_403"),
        ("404 Not Found", Recoverable, "http_404"),
        ("422 Unprocessable Content", Recoverable, "http_422"),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", Fatal, "http_302"),
    ] {
        let server = Server::start(vec![Act::Answer(head, "no such thing".to_owned())]);
        let error = ask(&tool(&server, GET), args()).unwrap_err();
        assert_eq!((error.tier, error.code.as_ref()), (tier, code));
        assert!(error.message.contains("no such thing"), "{error}");
        let wish = head.contains("Retry-After").then_some(Duration::from_secs(7));
        assert_eq!(error.retry_after, wish, "{head}");
    }
}

#[test]
fn a_server_that_hangs_is_left_in_time() {
    let server = Server::start(vec![Act::Hang]);
    let registry = tool(&server, &format!("{GET}\ntimeout_ms = 80"));
    let start = Instant::now();
    let error = ask(&registry, args()).unwrap_err();
    assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Transient, "timeout"));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_server_that_is_not_there_or_says_nothing_is_transient() {
    let server = Server::start(vec![Act::Close]);
    let registry = tool(&server, GET);
    assert_eq!(ask(&registry, args()).unwrap_err().tier, ErrorTier::Transient);
    // The listener is gone after its last act; wait for that by the channel that it drops.
    assert!(server.requests.recv().is_ok() && server.requests.recv().is_err());
    let error = ask(&registry, args()).unwrap_err();
    assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Transient, "unreachable"));
}

#[test]
fn twenty_megabytes_are_not_taken_in() {
    let server = Server::start(vec![Act::Flood]);
    let output = ask(&tool(&server, GET), args()).unwrap();
    assert!(output.truncated);
    assert!(output.text.ends_with("… [truncated at 16384 bytes]"));
    assert!(output.text.len() < 17_000);
    // What the kernel's buffers took beyond that is theirs.
    assert!(server.flooded.recv().unwrap() < FLOOD_BYTES);
}

#[test]
fn an_answer_that_breaks_its_promise_is_fatal() {
    let server = Server::start(vec![ok(r#"{"state":"sent"}"#), ok(r#"{"status":"sent"}"#), ok("<html>")]);
    let registry =
        tool(&server, &format!("{GET}\noutput_schema = {{ type = \"object\", required = [\"state\"] }}"));
    assert!(ask(&registry, args()).is_ok());
    for _ in 0..2 {
        let error = ask(&registry, args()).unwrap_err();
        assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Fatal, "schema_lie"));
    }
}

#[test]
fn an_unkeyed_call_whose_outcome_is_unknown_is_never_called_transient() {
    let server = Server::start(vec![
        Act::Hang,
        Act::Close,
        Act::Answer("502 Bad Gateway", String::new()),
        Act::Answer("503 Service Unavailable", String::new()),
    ]);
    let registry = tool(&server, &format!("{POST_UNKEYED}\ntimeout_ms = 80\nbody = {{}}"));
    for _ in 0..3 {
        let error = ask(&registry, args()).unwrap_err();
        assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Fatal, "outcome_unknown"));
    }
    assert_eq!(
        ask(&registry, args()).unwrap_err().tier,
        ErrorTier::Transient,
        "503 says that nothing was done"
    );
}

#[test]
fn a_post_condition_tells_whether_an_effect_happened() {
    let server = Server::start(vec![
        ok("{}"),
        Act::Answer("404 Not Found", String::new()),
        Act::Answer("500 Internal Server Error", String::new()),
    ]);
    let lines =
        format!("{POST_UNKEYED}\npost_condition = {{ url = \"http://{}/done/{{effect}}\" }}", server.address);
    let registry = tool(&server, &lines);
    let name = ToolName::new("ask").unwrap();
    assert_eq!(registry.post_condition(&name, effect()), Some(true));
    assert!(server.requests.recv().unwrap().starts_with(&format!("GET /done/{} ", effect())));
    assert_eq!(registry.post_condition(&name, effect()), Some(false));
    assert_eq!(registry.post_condition(&name, effect()), None);
}

#[test]
fn mistakes_in_a_declaration_are_named() {
    let good = "name = \"ask\"\nkind = \"http\"\ndescription = \"asks\"\nmethod = \"GET\"\nsafety = \"read_only\"\n\
                url = \"http://shop.example/{word}\"\n[parameters.properties.word]\n";
    assert!(load(good).is_ok());
    for (from, to, wanted) in [
        ("safety = \"read_only\"\n", "", "ask.toml: `safety` is missing"),
        ("method = \"GET\"", "method = \"FETCH\"", "ask.toml: `method` must be one of GET, POST"),
        ("http://shop.example/{word}", "ftp://shop.example/{word}", "ask.toml: `url` must begin with http"),
        ("http://shop.example/{word}", "http://{word}/", "ask.toml: `url` "),
        (
            "http://shop.example/{word}",
            "http://shop.example{word}",
            "ask.toml: `url` may have parameters only after",
        ),
        ("http://shop.example/{word}", "http://shop.example/{wrd}", "did you mean `word`?"),
        (
            "[parameters",
            "headers = { A = \"${NOPE}\" }\n[parameters",
            "`headers.A` needs the secret `NOPE`, which is not set; set the environment variable NOPE",
        ),
        ("[parameters", "body = {}\n[parameters", "ask.toml: `body` cannot be sent with this method"),
        ("[parameters", "retries = 3\n[parameters", "ask.toml: `retries` is no known key"),
    ] {
        let said = load(&good.replacen(from, to, 1)).unwrap_err();
        assert!(said.contains(wanted), "{said}\n  wanted: {wanted}");
    }
}
