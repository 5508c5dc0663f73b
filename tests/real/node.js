// Buffers, compression, hashes, worker threads and a child process: where node itself uses malloc.
'use strict';
const crypto = require('crypto');
const zlib = require('zlib');
const { execFileSync } = require('child_process');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');

function digest(bytes) {
  return crypto.createHash('sha256').update(bytes).digest('hex').slice(0, 16);
}

function bytes(seed, length) {
  const result = Buffer.alloc(length);
  let state = seed;
  for (let index = 0; index < length; index++) {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    result[index] = 97 + ((state >> 16) % 26);
  }
  return result;
}

if (!isMainThread) {
  const packed = zlib.gzipSync(bytes(workerData, 200000));
  parentPort.postMessage(digest(zlib.gunzipSync(packed)));
} else {
  const records = [];
  for (let index = 0; index < 20000; index++) {
    records.push({ index, text: bytes(index, index % 64).toString(), list: [index, [index]] });
  }
  const text = JSON.stringify(records);
  console.log('json', digest(JSON.stringify(JSON.parse(text))));
  console.log('regex', text.match(/[a-c]{3,}/g).length, digest(text.replace(/([a-m]+)([n-z]+)/g, '$2$1')));
  const large = bytes(3, 3000000);
  console.log('brotli', digest(zlib.brotliDecompressSync(zlib.brotliCompressSync(large.subarray(0, 300000)))));
  console.log('deflate', digest(zlib.inflateSync(zlib.deflateSync(large))));
  console.log('cipher', digest(crypto.createCipheriv('aes-256-ctr', bytes(1, 32), bytes(2, 16)).update(large)));
  console.log('child', execFileSync(process.execPath, ['-p', '6 * 7']).toString().trim());
  const buffers = [];
  for (let index = 0; index < 3000; index++) {
    buffers[index % 100] = Buffer.alloc(index * 97, index & 0xff);
  }
  console.log('buffers', digest(Buffer.concat(buffers)));
  const workers = [1, 2, 3, 4].map((seed) => new Promise((resolve, reject) => {
    const worker = new Worker(__filename, { workerData: seed });
    worker.on('message', resolve);
    worker.on('error', reject);
  }));
  Promise.all(workers).then((results) => console.log('workers', results.join(' ')));
}
