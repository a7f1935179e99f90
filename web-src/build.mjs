// Writes web/gsplat.mjs: gsplat.js in one file, so that the page needs nothing from elsewhere.
import { readFileSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const { version, license } = JSON.parse(readFileSync(here("node_modules/gsplat/package.json")));
const terms = readFileSync(here("node_modules/gsplat/LICENSE"), "utf8").trim();

await build({
  entryPoints: [here("gsplat.mjs")],
  outfile: here("../web/gsplat.mjs"), // not .js: ComfyUI's page would load that by itself
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2020",
  legalComments: "none",
  banner: { js: `/* gsplat.js ${version} (${license}), bundled by web-src/build.mjs\n\n${terms}\n*/` },
});
console.log(`web/gsplat.mjs: ${statSync(here("../web/gsplat.mjs")).size} bytes`);
