// Everything of the page, kept for when there is no network. FILES ({path: hash}) is put before this text by whoever
// serves or exports the page, so another model or another page makes another worker, and with it a new set.
//
// With a network the page is always the current one: an old model must not answer for a new one. What was kept is a
// whole set, taken when the worker was installed, and serves only where the network does not answer.

// Another page of the same origin, in another folder, keeps its own.
const OURS = `vagitus ${self.registration.scope}#`;
const CACHE = `${OURS}${FILES["sw.js"]}`;
const PATIENCE_MS = 4000;

self.addEventListener("install", (event) => {
  event.waitUntil(keepAll().then(() => self.skipWaiting()));
});

// All or nothing, as Cache.addAll. That, Chromium fails for a file of megabytes when the disk is nearly full (seen with
// 3.9 GB free of 250): it will not keep a stream, but takes the same bytes from memory.
async function keepAll() {
  const had = await caches.has(CACHE); // installed again: the set of the worker that serves
  const cache = await caches.open(CACHE);
  try {
    await Promise.all(["./", ...Object.keys(FILES).filter((path) => path !== "sw.js")].map((path) => keep(cache, path)));
  } catch (error) {
    if (!had) await caches.delete(CACHE);
    throw error;
  }
}

async function keep(cache, path) {
  const response = await fetch(path, { cache: "no-cache" });
  if (!response.ok) throw new TypeError(`${path}: ${response.status}`);
  const { status, statusText, headers } = response;
  await cache.put(path, new Response(await response.arrayBuffer(), { status, statusText, headers }));
}

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter((n) => n.startsWith(OURS) && n !== CACHE).map((n) => caches.delete(n))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== location.origin) return;
  event.respondWith(answer(request));
});

async function answer(request) {
  const kept = await (await caches.open(CACHE)).match(request, { ignoreSearch: true });
  if (!kept) return fetch(request);
  const late = new Promise((resolve) => setTimeout(resolve, PATIENCE_MS, null));
  const current = fetch(request, { cache: "no-cache" }).catch(() => null);
  const response = await Promise.race([current, late]);
  return response?.ok ? response : kept;
}
