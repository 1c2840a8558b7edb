// What this browser keeps: pictures with how they were made, jobs that run, directions for the search. IndexedDB; other tabs are told.

const NAME = "genlib";
const VERSION = 1;

/** Rejects with a sentence that a user understands. */
function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(explained(request.error));
  });
}

function explained(error) {
  const full = error?.name === "QuotaExceededError";
  return new Error(full ? "This browser's storage is full: delete pictures of the gallery, the server still has the new ones." : `This browser cannot keep pictures: ${error?.message}`);
}

function created(database) {
  const pictures = database.createObjectStore("pictures", { keyPath: "id" });
  pictures.createIndex("created", "created");
  database.createObjectStore("jobs", { keyPath: "key" });
  database.createObjectStore("vectors", { keyPath: ["model", "picture"] });
}

/**
 * A picture: {id, created (ms), blob, width, height, model, kind, settings, seed, job, index, favourite, added, name}.
 * Of one that was deleted `gone` is left, so that the server's copy does not bring it back.
 */
export class Store extends EventTarget {
  static async open() {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => created(request.result);
    const store = new Store(await settled(request));
    navigator.storage?.persist?.();
    return store;
  }

  constructor(database) {
    super();
    this.database = database;
    this.channel = new BroadcastChannel(NAME);
    this.channel.onmessage = () => this.dispatchEvent(new Event("change"));
  }

  async write(name, change) {
    const transaction = this.database.transaction(name, "readwrite");
    change(transaction.objectStore(name));
    await new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(explained(transaction.error));
    });
  }

  read(name, look) {
    return settled(look(this.database.transaction(name).objectStore(name)));
  }

  changed() {
    this.dispatchEvent(new Event("change"));
    this.channel.postMessage("change");
  }

  /** All that are not deleted, newest first; files that were only added to the search where `added`. */
  async pictures({ added = false } = {}) {
    const all = await this.read("pictures", (table) => table.index("created").getAll());
    return all.filter((one) => !one.gone && (added || !one.added)).reverse();
  }

  picture(id) {
    return this.read("pictures", (table) => table.get(id));
  }

  /** Keys of all that were ever there, deleted ones too. */
  async known() {
    return new Set(await this.read("pictures", (table) => table.getAllKeys()));
  }

  async keep(...pictures) {
    await this.write("pictures", (table) => pictures.forEach((one) => table.put(one)));
    this.changed();
  }

  async remove(picture) {
    await this.write("pictures", (table) => table.put({ id: picture.id, created: picture.created, gone: true }));
    this.changed();
  }

  /** Jobs that run, oldest first. */
  async jobs() {
    return (await this.read("jobs", (table) => table.getAll())).sort((a, b) => a.created - b.created);
  }

  keepJob(job) {
    return this.write("jobs", (table) => table.put(job));
  }

  dropJob(key) {
    return this.write("jobs", (table) => table.delete(key));
  }

  /** Directions of pictures by a model, as a map of picture id to Float32Array. */
  async vectors(model) {
    const range = IDBKeyRange.bound([model], [model, []]);
    return new Map((await this.read("vectors", (table) => table.getAll(range))).map((row) => [row.picture, row.vector]));
  }

  keepVectors(model, vectors) {
    return this.write("vectors", (table) => vectors.forEach(([picture, vector]) => table.put({ model, picture, vector })));
  }
}
