// Copies from node_modules what the page needs of onnxruntime-web: its smallest WebAssembly build (one thread, SIMD).
// The page's own files are plain ES modules and need no build.
import { copyFileSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const from = join(here, "node_modules", "onnxruntime-web");
const to = join(here, "..", "src", "vagitus", "page", "ort");
const MAX_BYTES = 15e6; // the page is in the wheel and in git

mkdirSync(to, { recursive: true });
copyFileSync(join(from, "dist", "ort-wasm-simd-threaded.wasm"), join(to, "ort-wasm-simd-threaded.wasm"));
// Its source map is not shipped, so nothing should ask for it.
const script = readFileSync(join(from, "dist", "ort.wasm.bundle.min.mjs"), "utf8");
writeFileSync(join(to, "ort.js"), script.replace(/\n\/\/# sourceMappingURL=\S+\s*$/, "\n"));

// The npm package has no licence files; those of its repository lie in the folder already.
const names = ["ort-wasm-simd-threaded.wasm", "ort.js", "LICENSE.txt", "ThirdPartyNotices.txt"];
const total = names.reduce((sum, name) => sum + statSync(join(to, name)).size, 0);
if (total > MAX_BYTES) throw new Error(`${to}: ${total} bytes, at most ${MAX_BYTES}; pin a smaller onnxruntime-web`);
const { version } = JSON.parse(readFileSync(join(from, "package.json"), "utf8"));
console.log(`onnxruntime-web ${version} -> ${to}: ${(total / 1e6).toFixed(1)} MB`);
