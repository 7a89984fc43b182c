// OpenAI's own client for Node.
import OpenAI from "openai";
import { APPLIED, assert, DATA_URL, EMBEDDER, expect, EXPECTED, MODEL, NAME, QUESTION, run, UNKNOWN, UNSTEERED, V1, VECTOR } from "./checks.mjs";

const client = new OpenAI({ baseURL: V1, apiKey: "none", maxRetries: 0 });
const content = [
  { type: "text", text: QUESTION },
  { type: "image_url", image_url: { url: DATA_URL } },
];
const answer = (model, more = {}) =>
  client.chat.completions.create({ model, messages: [{ role: "user", content }], temperature: 0, ...more });

await run({
  async text() {
    const given = await client.chat.completions.create({ model: MODEL, messages: [{ role: "user", content: QUESTION }] });
    assert(given.usage.completion_tokens > 0, "no tokens");
  },
  async image() {
    expect((await answer(MODEL)).choices[0].message.content);
  },
  async stream() {
    let text = "";
    for await (const chunk of await answer(MODEL, { stream: true })) text += chunk.choices[0]?.delta?.content ?? "";
    expect(text);
  },
  async vector() {
    assert((await answer(UNSTEERED)).choices[0].message.content !== EXPECTED, "steered");
    expect((await answer(VECTOR)).choices[0].message.content);
    assert((await client.models.retrieve(VECTOR)).id === VECTOR, "another model");
  },
  async audit() {
    assert((await answer(VECTOR)).vlibrary.applied[0].name === NAME, "no vector in the body");
  },
  async "stream audit"() {
    let report;
    for await (const chunk of await answer(VECTOR, { stream: true })) report = chunk.vlibrary ?? report;
    assert(report.applied[0].name === NAME, "no vector in the stream");
  },
  async headers() {
    for (const stream of [false, true]) {
      const { response } = await answer(VECTOR, { stream }).withResponse();
      assert(response.headers.get(APPLIED)?.includes(NAME), "no vector in the headers");
    }
  },
  async errors() {
    const error = await answer(UNKNOWN).catch((error) => error);
    assert(error instanceof OpenAI.NotFoundError, `${error.name}`);
    assert(error.message.includes(UNKNOWN), error.message);
    assert(error.code === "model_not_found", error.code);
  },
  async logprobs() {
    const given = await answer(VECTOR, { logprobs: true, top_logprobs: 2 });
    assert(given.choices[0].logprobs.content[0].top_logprobs.length === 2, "no log probabilities");
  },
  async json() {
    const schema = { type: "object", properties: { word: { enum: ["brox", "quave"] } }, required: ["word"] };
    const format = { type: "json_schema", json_schema: { name: "word", schema, strict: true } };
    JSON.parse((await answer(VECTOR, { response_format: format })).choices[0].message.content);
  },
  async completions() {
    assert((await client.completions.create({ model: MODEL, prompt: QUESTION })).choices.length === 1, "no answer");
  },
  async responses() {
    const input = [
      { type: "input_text", text: QUESTION },
      { type: "input_image", image_url: DATA_URL, detail: "auto" },
    ];
    expect((await client.responses.create({ model: VECTOR, input: [{ role: "user", content: input }], temperature: 0 })).output_text);
  },
  async embeddings() {
    // This client requests base64 and decodes it.
    const given = await client.embeddings.create({ model: EMBEDDER, input: "Which hue?" });
    assert(given.data[0].embedding.length > 0, "no embedding");
  },
});
