// Reads {module, model, context, limit, prompts} from standard input; writes [{ids, written}] for the prompts: their
// token ids, and the up to `limit` ids that llama.cpp greedily writes after the end mark and the prompt; an end mark is
// the last of them.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const job = JSON.parse(readFileSync(0, "utf8"));
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(job.module).href);
const llama = await getLlama({ gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: job.model });
const context = await model.createContext({
  contextSize: job.context,
  flashAttention: false,
  experimentalKvCacheKeyType: "F32", // the default, F16, would round
  experimentalKvCacheValueType: "F32",
});
const sequence = context.getSequence();
const answers = [];
for (const prompt of job.prompts) {
  const ids = model.tokenize(prompt, false);
  const written = [];
  await sequence.clearHistory();
  const options = { temperature: 0, yieldEogToken: true };
  for await (const token of sequence.evaluate([model.tokens.bos, ...ids], options)) {
    written.push(Number(token));
    if (model.isEogToken(token) || written.length >= job.limit) break;
  }
  answers.push({ ids: Array.from(ids, Number), written });
}
console.log(JSON.stringify(answers));
process.exit(0);
