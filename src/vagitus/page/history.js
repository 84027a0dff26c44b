// Results kept on this device, in IndexedDB, until they are erased. Sound is kept only where a person ticked it.
//
//   {id, when, name, prediction, model, sha256, sound}: prediction as score.js gives it, sha256 of the model's file,
//   sound a WAV Blob or null

const STORE = "results";
// Another page of the same origin, in another folder, has its own history.
const DATABASE = `vagitus ${new URL(import.meta.url).pathname.replace(/[^/]*$/, "")}`;

let opened;
const changed = "BroadcastChannel" in globalThis ? new BroadcastChannel(DATABASE) : null;

/** Call back when another tab changes the history. */
export function onOtherTab(callback) {
  if (changed) changed.onmessage = callback;
}

export const all = async () => (await asked("readonly", (store) => store.getAll())).sort((a, b) => b.when - a.when);
export const get = (id) => asked("readonly", (store) => store.get(id));
export const add = (entry) => told(asked("readwrite", (store) => store.add(entry)));
export const erase = (id) => told(asked("readwrite", (store) => store.delete(id)));
export const eraseAll = () => told(asked("readwrite", (store) => store.clear()));

/** Keep the sound of an entry, or with null let it go. */
export async function keepSound(id, sound) {
  const entry = await get(id);
  if (entry) await told(asked("readwrite", (store) => store.put({ ...entry, sound })));
}

async function told(done) {
  const value = await done;
  changed?.postMessage("changed");
  return value;
}

async function asked(mode, ask) {
  opened ??= open().catch((error) => {
    opened = undefined; // so that the next one tries again
    throw error;
  });
  const transaction = (await opened).transaction(STORE, mode);
  const request = ask(transaction.objectStore(STORE));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true });
    request.onsuccess = () => {
      const database = request.result;
      database.onversionchange = () => {
        opened = undefined;
        database.close(); // a newer page in another tab
      };
      database.onclose = () => {
        opened = undefined; // by the browser, as when its data are cleared
      };
      resolve(database);
    };
    request.onerror = () => reject(request.error);
  });
}
