// Checks the resources that Kubernetes itself does not define, which come as one JSON array on stdin, against their owners'
// schemas: once as they are published, and once as TypeScript types, because the published ones let unknown fields pass.
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'

const packages = { 'keda.sh': 'keda', 'external-secrets.io': 'external-secrets', 'monitoring.coreos.com': 'prometheus-operator' }
const lines = []
let failures = 0

for (const resource of JSON.parse(readFileSync(0))) {
  const [group, version] = resource.apiVersion.split('/')
  if (!(group in packages)) continue
  const source = `@kubernetes-models/${packages[group]}/${group}/${version}`
  const Kind = (await import(source))[resource.kind]
  try {
    new Kind(resource).validate()
    console.log(`${resource.kind} ${resource.metadata.name}: valid`)
  } catch (error) {
    failures += 1
    console.error(`${resource.kind} ${resource.metadata.name}: ${error.message}`)
  }
  const kind = `Kind${lines.length}`
  lines.push(`import type { I${resource.kind} as ${kind} } from '${source}'; export const of${kind}: ${kind} = ${JSON.stringify(resource)}`)
}
if (!lines.length) throw new Error('no resource of KEDA, External Secrets or Prometheus came; did kustomize render any?')

const file = new URL('resources.generated.ts', import.meta.url).pathname
writeFileSync(file, lines.join('\n'))
const tsc = new URL('node_modules/typescript/bin/tsc', import.meta.url).pathname
const options = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'nodenext', '--pretty', 'false']
const types = spawnSync(process.execPath, [tsc, ...options, file], { encoding: 'utf8' })
rmSync(file)
process.stderr.write(types.stdout.replaceAll(/^.*error (TS\d+): /gm, 'field: '))
process.exit(failures || types.status ? 1 : 0)
