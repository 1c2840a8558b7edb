// Server-sent events over fetch, since EventSource sends no key: read, resumed after the last event that came.

const RESUME_MS = 1000;
const MOST_FAILURES = 30;

/** An async iterable of {id, event, data}; `connect` takes headers and gives a response. It ends with the server's stream "done". */
export class ServerEvents {
  constructor(connect, signal) {
    this.connect = connect;
    this.signal = signal;
    this.lastId = "";
  }

  async *[Symbol.asyncIterator]() {
    for (let failures = 0; failures < MOST_FAILURES; ) {
      const headers = { Accept: "text/event-stream", ...(this.lastId && { "Last-Event-ID": this.lastId }) };
      const response = await this.connect(headers);
      try {
        for await (const message of messages(response.body)) {
          failures = 0;
          if (message.id) this.lastId = message.id;
          if (message.data === "[DONE]") return;
          yield { ...message, data: JSON.parse(message.data) };
        }
      } catch (error) {
        if (this.signal?.aborted || !(error instanceof TypeError)) throw error; // a TypeError is a broken connection
      }
      failures += 1;
      await new Promise((resolve) => setTimeout(resolve, RESUME_MS));
    }
    throw new Error("The server's news keep breaking off.");
  }
}

/** Messages of a stream of bytes. */
async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const message = parsed(block);
        if (message.data) yield message;
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const message = { id: "", event: "message", data: "" };
  for (const line of block.split(/\r?\n/)) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === "data") message.data += (message.data && "\n") + value;
    else if (field === "id" || field === "event") message[field] = value;
  }
  return message;
}
