//! `GET /openapi.json`: made from the table of endpoints and from the types of their documents.

use actix_web::HttpResponse;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::endpoints::{Answer, Content, ENDPOINTS, Endpoint};
use super::problem::{PROBLEM_JSON, Problem};

/// Describes the API.
pub(super) async fn show() -> HttpResponse {
    HttpResponse::Ok().json(document())
}

/// The description, in `OpenAPI` 3.1.
pub(super) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>().to_value();
    let mut paths = Map::new();
    for endpoint in ENDPOINTS {
        let mut content = |content: &Content| {
            let schema = content.schema.map_or_else(|| json!({"type": "string"}), |of| of(&mut generator));
            json!({content.media_type: {"schema": schema}})
        };
        let answers: Map<String, Value> = endpoint
            .answers
            .iter()
            .map(|answer: &Answer| {
                let body = match &answer.content {
                    Some(found) => content(found),
                    None => json!({PROBLEM_JSON: {"schema": problem}}),
                };
                (answer.status.to_string(), json!({"description": answer.description, "content": body}))
            })
            .collect();
        let mut operation = json!({
            "summary": endpoint.summary,
            "operationId": operation_id(endpoint),
            "parameters": parameters(endpoint),
            "responses": answers,
        });
        if let Some(members) = operation.as_object_mut() {
            if let Some(body) = &endpoint.body {
                members.insert("requestBody".to_owned(), json!({"required": true, "content": content(body)}));
            }
            if endpoint.is_public {
                members.insert("security".to_owned(), json!([]));
            }
        }
        let method = endpoint.method.as_str().to_ascii_lowercase();
        paths.insert(endpoint.path.to_owned(), json!({method: operation}));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Kintsugi",
            "description": "A running node: goals in, results, agents, seams and events out.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        // A node that needs no token takes requests without one.
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn parameters(endpoint: &Endpoint) -> Vec<Value> {
    let one = |parameter: &super::endpoints::Parameter| {
        json!({
            "name": parameter.name,
            "in": parameter.place,
            "required": parameter.place == "path",
            "description": parameter.description,
            "schema": {"type": if parameter.name == "limit" { "integer" } else { "string" }},
        })
    };
    endpoint.parameters.iter().map(one).collect()
}

/// `get_v1_goals_id`: method and path in words.
fn operation_id(endpoint: &Endpoint) -> String {
    let words = endpoint.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut id = endpoint.method.as_str().to_ascii_lowercase();
    for word in words {
        id.push('_');
        id.push_str(word);
    }
    id
}
