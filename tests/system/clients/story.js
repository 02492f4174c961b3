// The operator's story, as any Node program can do it with @grpc/grpc-js: create, grow, watch, find
// who holds what and who is behind, take it off, clean up, delete.
//
// usage: story.js PROTO_DIR RUNTIME_DIR BIN_DIR
'use strict';
const {spawn} = require('child_process');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [protoDir, runtimeDir, binDir] = process.argv.slice(2);

function must(condition, what) {
  if (!condition) throw new Error(what);
}

async function until(condition, what) {
  for (const end = Date.now() + 60000; Date.now() < end;) {
    const result = await condition();
    if (result) return result;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`not within a minute: ${what}`);
}

// A client whose methods return promises.
function connect(name) {
  const files = ['admin', 'observer', 'session'].map((service) => `zerocp/v1/${service}_service.proto`);
  const options = {includeDirs: [protoDir], longs: Number, enums: String, defaults: true};
  const packages = grpc.loadPackageDefinition(loader.loadSync(files, options));
  const Service = packages.zerocp.v1[name];
  const client = new Service(`unix:${runtimeDir}/admin.sock`, grpc.credentials.createInsecure());
  const call = (method, request = {}) =>
    new Promise((resolve, reject) => {
      client[method](request, {deadline: Date.now() + 60000},
        (error, response) => (error ? reject(error) : resolve(response)));
    });
  return {client, call};
}

async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    // The reason, without a decoder for google.rpc.Status.
    const details = error.metadata.get('grpc-status-details-bin')[0].toString('latin1');
    return {code: error.code, details};
  }
  throw new Error('nothing was refused');
}

async function story() {
  const admin = connect('AdminService');
  const observer = connect('ObserverService');
  const missing = await refusal(observer.call('GetPool', {name: 'pools/story'}));
  must(missing.code === grpc.status.NOT_FOUND && missing.details.includes('POOL_NOT_FOUND'), missing.details);

  const pool = {chunkSizeBytes: 4096, chunkCount: 16};
  must((await admin.call('CreatePool', {poolId: 'story', pool})).created, 'pool created');
  await admin.call('CreateChannel', {
    channelId: 'story',
    channel: {pool: 'pools/story', whenFull: 'WHEN_FULL_WAIT', queueCapacity: 4},
  });
  const grown = await admin.call('UpdatePool', {pool: {name: 'pools/story', chunkCount: 32}});
  must(grown.pool.chunkCount === 32, 'pool grown');

  const watch = observer.client.WatchEvents({});
  await new Promise((resolve, reject) => {
    watch.on('data', (event) => event.resource === 'channels/story' && resolve());
    watch.on('error', reject);
  });
  watch.on('error', () => {});
  watch.cancel();

  const subscribers = async () => {
    const {stats} = await observer.call('GetStats');
    return stats.channels.find((channel) => channel.channel === 'channels/story').subscribers;
  };
  const zerocp = (...command) =>
    spawn(`${binDir}/zerocp`, [...command, '--runtime-dir', runtimeDir], {stdio: ['pipe', 'ignore', 'ignore']});
  const end = (child) => new Promise((resolve) => child.on('exit', (code, signal) => resolve(signal ?? code)));
  const slow = zerocp('recv', 'story', '-o', '/dev/null');
  const slowEnd = end(slow);
  await until(async () => (await subscribers()).length === 1, 'it subscribes');
  slow.kill('SIGSTOP');
  const sender = zerocp('send', 'story', '--no-wait');
  const senderEnd = end(sender);
  sender.stdin.end(Buffer.alloc(64 * 4096));

  const subscriber = await until(
    async () => (await subscribers()).find((one) => one.queuedCount === 4 && one.stalledFor.nanos > 0),
    'the slow one is seen');
  const {holders} = await observer.call('ListHeldChunks', {pool: 'pools/story'});
  must(holders.some((one) => one.peerPid === slow.pid && one.chunkCount >= 4), `the holder is process ${slow.pid}`);
  await admin.call('DetachSubscriber', {name: subscriber.subscriber});
  must((await senderEnd) === 0, 'the sender goes on without it');
  await admin.call('TerminateSession', {name: subscriber.session, kill: true});
  must((await slowEnd) === 'SIGKILL', 'the slow one is gone');

  must((await admin.call('Cleanup', {kinds: ['KIND_DEAD_SESSION']})).removedCount === 0, 'all is clean');
  const used = await refusal(admin.call('DeletePool', {name: 'pools/story'}));
  must(used.details.includes('POOL_IN_USE'), used.details);
  await admin.call('DeleteChannel', {name: 'channels/story', evenIfInUse: true});
  // Members of the channel may not have left yet.
  await until(() => admin.call('DeletePool', {name: 'pools/story', drain: true}).catch(() => null), 'it is deleted');
  await until(async () => {
    const {pools} = await observer.call('ListPools');
    return !pools.some((one) => one.name === 'pools/story');
  }, 'the pool is gone');
  must((await admin.call('Audit')).violations.length === 0, 'the audit finds nothing');
}

story().then(
  () => {
    console.log('story.js: told');
    process.exit(0);
  },
  (error) => {
    console.error(`story.js: ${error.stack}`);
    process.exit(1);
  });
