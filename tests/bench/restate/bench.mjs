// Measures Restate: RUNS invocations of STEPS durable steps, CONCURRENCY at a time. Prints one JSON object.
// Usage: node bench.mjs RUNS STEPS CONCURRENCY (server on 8080 and 9070, handler on 19080)
import { readFileSync } from "node:fs";
const [runs, steps, concurrency] = process.argv.slice(2).map(Number);
const post = async (url, body) => {
  const answer = await fetch(url, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`);
  return answer.json();
};
const drive = async (count) => {
  let next = 0;
  const times = [];
  const one = async () => {
    while (next++ < count) {
      const begun = performance.now();
      const done = await post("http://127.0.0.1:8080/chain/run", steps);
      if (done !== steps) throw new Error(`${done} steps were done`);
      times.push(performance.now() - begun);
    }
  };
  const begun = performance.now();
  await Promise.all(Array.from({ length: concurrency }, one));
  return { seconds: (performance.now() - begun) / 1000, times: times.sort((a, b) => a - b) };
};
await post("http://127.0.0.1:9070/deployments", { uri: "http://127.0.0.1:19080", force: true });
await drive(Math.min(runs, 50));
const { seconds, times } = await drive(runs);
const at = (part) => times[Math.min(times.length - 1, Math.floor(times.length * part))];
const version = JSON.parse(readFileSync(new URL("node_modules/@restatedev/restate-server/package.json", import.meta.url))).version;
console.log(JSON.stringify({
  engine: "restate", version, load: { runs, steps, concurrency }, seconds, steps_per_second: runs * steps / seconds,
  run_ms: { p50: at(0.5), p99: at(0.99) }, durability: "defaults: the log's WAL is synced; the handler is another process",
}));
