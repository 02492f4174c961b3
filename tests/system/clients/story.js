// An operator's story with @grpc/grpc-js: create a pool, grow it, apply a configuration that was previewed as a diff, watch,
// find who leaks and who is behind, take it off, clean up, delete.
//
//   npm install @grpc/grpc-js @grpc/proto-loader protobufjs
//   node story.js PREFIX/share/zerocp/proto unix:/run/zerocp/admin.sock
//   node story.js PREFIX/share/zerocp/proto HOST:PORT AUTHORITY [CERTIFICATE KEY]
//
// Exit status 1: something was refused, or is not as expected; standard error says what.
'use strict';
const assert = require('assert');
const fs = require('fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const POOL = 'pools/story';
const CHANNEL = 'channels/story';
const DEADLINE = {methodConfig: [{name: [{}], timeout: '60s'}]}; // of every call and stream

// What errors carry in grpc-status-details-bin; of the same form as in googleapis.
const rpc = protobuf.parse(`
  syntax = "proto3";
  package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }`).root.lookup('google.rpc');

// What programs compare, never the text; undefined for errors that are not the daemon's.
function reasonOf(error) {
  const [encoded] = error.metadata?.get('grpc-status-details-bin') ?? [];
  if (!encoded) return undefined;
  const info = rpc.Status.decode(encoded).details.find(({typeUrl}) => typeUrl.endsWith('/google.rpc.ErrorInfo'));
  return info && rpc.ErrorInfo.decode(info.value).reason;
}

// A socket without credentials, or TLS with one's certificate, whose name has a role. The services' methods return
// promises; those that stream, streams.
function connect(protoDir, target, ...files) {
  const names = ['AdminService', 'ObserverService'];
  const protos = ['zerocp/v1/admin_service.proto', 'zerocp/v1/observer_service.proto'];
  const options = {includeDirs: [protoDir], longs: Number, enums: String, defaults: true};
  const {v1} = grpc.loadPackageDefinition(loader.loadSync(protos, options)).zerocp;
  const [authority, certificate = null, key = null] = files.map((file) => fs.readFileSync(file));
  const credentials = authority ? grpc.credentials.createSsl(authority, key, certificate) : grpc.credentials.createInsecure();
  return names.map((name) => {
    const client = new v1[name](target, credentials, {'grpc.service_config': JSON.stringify(DEADLINE)});
    const methods = Object.entries(v1[name].service).map(([method, {responseStream}]) => [method, (request = {}) =>
      responseStream ? client[method](request) : new Promise((resolve, reject) =>
        client[method](request, (error, response) => (error ? reject(error) : resolve(response))))]);
    return Object.fromEntries(methods);
  });
}

// A call is refused for that reason.
async function refused(reason, call) {
  await assert.rejects(call, (error) => {
    if (reasonOf(error) !== reason) throw error;
    return true;
  });
}

// The first answer of a stream that is as asked for; the stream is left.
async function first(stream, condition) {
  try {
    for await (const answer of stream) {
      if (condition(answer)) return answer;
    }
  } finally {
    stream.cancel();
  }
  throw new Error('the stream ended');
}

const storyOf = ({stats}) => stats.channels.find(({channel}) => channel === CHANNEL);

async function story([admin, observer]) {
  await refused('POOL_NOT_FOUND', observer.GetPool({name: POOL}));

  // Create, as a preview and really, and grow.
  const create = {poolId: 'story', pool: {chunkSizeBytes: 4096, chunkCount: 16}};
  assert(!(await admin.CreatePool({...create, validateOnly: true})).created, 'a preview creates nothing');
  assert((await admin.CreatePool(create)).created, 'the pool is created');
  const grown = await admin.UpdatePool({pool: {name: POOL, chunkCount: 32}});
  assert.equal(grown.pool.chunkCount, 32);

  // The configuration as a whole: what is in force, edited; first what would change, then the change.
  const {config} = await observer.GetConfig();
  const wanted = structuredClone(config);
  wanted.pools.find(({name}) => name === POOL).chunkCount = 48;
  wanted.channels.push({name: CHANNEL, pool: POOL, whenFull: 'WHEN_FULL_WAIT', queueCapacity: 4});
  const preview = await admin.ApplyConfig({config: wanted, validateOnly: true});
  for (const {action, path, oldValue, newValue} of preview.changes) console.log(`${action} ${path}: ${oldValue} -> ${newValue}`);
  const [added, updated] = preview.changes;
  assert.deepEqual([preview.changes.length, added.action, added.path], [2, 'ACTION_ADD', CHANNEL]);
  assert.deepEqual(updated, {action: 'ACTION_UPDATE', path: `${POOL}.chunk_count`, oldValue: '32', newValue: '48'});
  assert.deepEqual((await observer.GetConfig()).config, config, 'a preview changes nothing');
  assert.deepEqual((await admin.ApplyConfig({config: wanted})).changes, preview.changes, 'what was previewed is done');
  const inForce = (await observer.GetConfig()).config;
  assert.equal(inForce.pools.find(({name}) => name === POOL).chunkCount, 48);
  assert.equal(inForce.channels.find(({name}) => name === CHANNEL).queueCapacity, 4);
  await refused('ETAG_MISMATCH', admin.ApplyConfig({config: wanted})); // it was made of one that is in force no more

  // Watch until somebody is behind; who is it, and what does it hold?
  const {resource: stalled} = await first(observer.WatchEvents(), ({kind, resource}) =>
    kind === 'KIND_SUBSCRIBER_STALLED' && resource.startsWith(`${CHANNEL}/`));
  const update = await first(observer.WatchStats({maxUpdates: 1}), () => true);
  const [slow] = storyOf(update).subscribers; // the longest queue comes first
  console.log(`${slow.clientName} of ${slow.session} is ${slow.queuedCount} messages behind`);
  assert.deepEqual([slow.subscriber, slow.queuedCount, slow.clientName], [stalled, 4, 'leaky']);
  const {holders} = await observer.ListHeldChunks({pool: POOL, holder: slow.session});
  for (const {peerPid, chunkCount, phase} of holders) console.log(`process ${peerPid} keeps ${chunkCount} chunks in ${phase}`);
  assert.equal(holders.find(({phase}) => phase === 'PHASE_WRITING').chunkCount, 3, 'who leaks');

  // Take it off; the publisher goes on and ends. Then end the one that leaks.
  assert.equal((await admin.DetachSubscriber({name: stalled})).queuedCount, 4);
  await first(observer.WatchStats({interval: {nanos: 1e8}}), (one) =>
    storyOf(one).publishedCount === 64 && storyOf(one).publisherCount === 0);
  const {releasedChunkCount} = await admin.TerminateSession({name: slow.session, kill: true});
  assert(releasedChunkCount >= 3, 'its chunks are free');

  // Clean up and delete.
  assert.equal((await admin.Cleanup({kinds: ['KIND_DEAD_SESSION']})).removedCount, 0, 'nobody is left behind');
  await refused('POOL_IN_USE', admin.DeletePool({name: POOL}));
  await admin.DeleteChannel({name: CHANNEL});
  await admin.DeletePool({name: POOL, drain: true});
  await refused('POOL_NOT_FOUND', first(observer.WatchStats({pools: [POOL]}), () => false)); // at once, or when it is gone
  const audit = await admin.Audit();
  assert(audit.checkedChunkCount > 0 && audit.violations.length === 0, 'no invariant is broken');
}

story(connect(...process.argv.slice(2))).then(
  () => console.log('story.js: told'),
  (error) => {
    const code = grpc.status[error.code]; // undefined if it is not of a call
    console.error(code ? `story.js: ${code} ${reasonOf(error) ?? ''}: ${error.details}` : error);
    process.exitCode = 1;
  },
);
