// Vercel's AI SDK with its provider for OpenAI-compatible services.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embed, generateObject, generateText, jsonSchema, streamText } from "ai";
import { APPLIED, assert, EMBEDDER, expect, EXPECTED, IMAGE, MODEL, NAME, QUESTION, run, UNKNOWN, UNSTEERED, V1, VECTOR } from "./checks.mjs";

const provider = createOpenAICompatible({
  name: "vlibrary",
  baseURL: V1,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const messages = [
  {
    role: "user",
    content: [
      { type: "text", text: QUESTION },
      { type: "image", image: IMAGE },
    ],
  },
];
const options = (model) => ({ model: provider(model), messages, temperature: 0, maxRetries: 0 });

await run({
  async text() {
    await generateText({ model: provider(MODEL), prompt: QUESTION, maxRetries: 0 });
  },
  async image() {
    expect((await generateText(options(MODEL))).text);
  },
  async stream() {
    let text = "";
    for await (const piece of streamText(options(MODEL)).textStream) text += piece;
    expect(text);
  },
  async vector() {
    assert((await generateText(options(UNSTEERED))).text !== EXPECTED, "steered");
    expect((await generateText(options(VECTOR))).text);
    // The first key is the provider's name, and what it holds is put into the body as it is.
    const steering = { vlibrary: { vlibrary: { steering: "off" } } };
    assert((await generateText({ ...options(MODEL), providerOptions: steering })).text !== EXPECTED, "steered");
  },
  async audit() {
    assert((await generateText(options(VECTOR))).response.body.vlibrary.applied[0].name === NAME, "no vector in the body");
  },
  async "stream audit"() {
    // Its parts of a stream have OpenAI's fields only; the headers are kept.
    const result = streamText(options(VECTOR));
    await result.consumeStream();
    assert((await result.response).headers[APPLIED]?.includes(NAME), "no vector in the headers");
  },
  async headers() {
    const { response } = await generateText(options(VECTOR));
    assert(response.headers[APPLIED]?.includes(NAME), "no vector in the headers");
  },
  async errors() {
    const error = await generateText(options(UNKNOWN)).catch((error) => error);
    assert(APICallError.isInstance(error), error.name);
    assert(error.statusCode === 404 && error.message.includes(UNKNOWN), error.message);
  },
  async json() {
    const schema = jsonSchema({
      type: "object",
      properties: { word: { type: "string", enum: ["brox", "quave"] } },
      required: ["word"],
      additionalProperties: false,
    });
    const { object } = await generateObject({ ...options(VECTOR), schema });
    assert(["brox", "quave"].includes(object.word), object.word);
  },
  async tools() {
    const inputSchema = jsonSchema({ type: "object", properties: { word: { enum: ["brox", "quave"] } }, required: ["word"] });
    const tools = { say: { description: "Says a word.", inputSchema } };
    const { toolCalls, finishReason } = await generateText({ ...options(VECTOR), tools, toolChoice: "required" });
    assert(["brox", "quave"].includes(toolCalls[0].input.word), JSON.stringify(toolCalls));
    assert(finishReason === "tool-calls", finishReason);
  },
  async completions() {
    await generateText({ model: provider.completionModel(MODEL), prompt: QUESTION, maxRetries: 0 });
  },
  async embeddings() {
    const { embedding } = await embed({ model: provider.textEmbeddingModel(EMBEDDER), value: "Which hue?", maxRetries: 0 });
    assert(embedding.length > 0, "no embedding");
  },
});
