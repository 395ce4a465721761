// Lints contract/asyncapi.yaml; `python -m contract.checks.lint` runs it. Warnings fail too.
'use strict'

const { readFileSync } = require('node:fs')
const { Parser } = require('@asyncapi/parser')

async function lint(path) {
  const { diagnostics } = await new Parser().parse(readFileSync(path, 'utf8'), { source: path })
  // A newer version of AsyncAPI is not a reason to fail.
  const faults = diagnostics.filter(({ code, severity }) => severity <= 1 && code !== 'asyncapi-latest-version')
  for (const { range, code, message, path: place } of faults) {
    console.error(`${path}:${range.start.line + 1} ${code} ${message} (${place.join('.')})`)
  }
  if (faults.length === 0) console.log(`${path}: no faults`)
  return faults.length === 0 ? 0 : 1
}

lint(process.argv[2]).then((status) => { process.exitCode = status })
