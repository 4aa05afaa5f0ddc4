// The live data: server-sent events named after the routes whose bodies they carry, or, where
// something on the way holds a stream back, those routes asked again and again. Nothing is asked
// while nobody sees the page.

const SILENT_MS = 6000; // an event comes each second
const POLL_MS = 2000;
const POLLS = 30; // then the stream is tried again
const RETRY_MS = [500, 1000, 2000, 4000];
const KEY = "lendkv.key";

export class Locked extends Error {}

export class Feed {
  // take(name, body) gets what came, state(name) hears "live", "lost" or "locked".
  constructor(take, state) {
    this.take = take;
    this.state = state;
    this.since = 0; // the newest second of the history that is known
    this.named = false; // whether the model's name is known
    this.wake = () => {};
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.abort?.abort();
      else this.wake();
    });
  }

  get key() {
    return sessionStorage.getItem(KEY);
  }

  unlock(key) {
    sessionStorage.setItem(KEY, key);
    this.wake();
  }

  async run() {
    for (let failures = 0; ; ) {
      if (document.hidden) await this.sleep(Infinity);
      try {
        this.abort = new AbortController();
        if (!this.named) this.give("models", await (await this.ask("v1/models")).json());
        this.named = true;
        if (!(await this.stream(this.abort.signal))) await this.poll();
        failures = 0;
      } catch (error) {
        if (document.hidden) continue;
        this.state(error instanceof Locked ? "locked" : "lost");
        if (error instanceof Locked) await this.sleep(Infinity);
        else await this.sleep(RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]);
      }
    }
  }

  // Until the stream ends; false if nothing was to be heard of it, though it was there.
  async stream(signal) {
    let heard = false;
    let silence;
    const listen = () => {
      clearTimeout(silence);
      silence = setTimeout(() => this.abort.abort(), SILENT_MS);
    };
    listen();
    try {
      const answer = await this.ask(`cluster/events?since=${this.since}`, signal);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) throw new Error("the stream ended");
        const events = (text + value).split("\n\n");
        text = events.pop();
        for (const event of events) this.hear(event);
        heard ||= events.length > 0;
        listen();
      }
    } catch (error) {
      const held = !heard && error.name === "AbortError" && !document.hidden;
      if (held) return false;
      throw error;
    } finally {
      clearTimeout(silence);
    }
  }

  async poll() {
    for (let turn = 0; turn < POLLS && !document.hidden; turn++) {
      this.abort = new AbortController();
      const paths = { history: `cluster/history?since=${this.since}`, cluster: "cluster" };
      for (const [name, path] of Object.entries(paths)) this.give(name, await (await this.ask(path)).json());
      await this.sleep(POLL_MS);
    }
  }

  hear(event) {
    const fields = new Map(event.split("\n").map((line) => [line.split(":", 1)[0], line.slice(line.indexOf(":") + 2)]));
    if (fields.get("data")) this.give(fields.get("event"), JSON.parse(fields.get("data")));
  }

  give(name, body) {
    if (name === "history") this.since = body.seconds.at(-1)?.second ?? this.since;
    this.state("live");
    try {
      this.take(name, body);
    } catch (error) {
      reportError(error); // the page's own mistake says nothing of the gateway
    }
  }

  async ask(path, signal = AbortSignal.any([this.abort.signal, AbortSignal.timeout(SILENT_MS)])) {
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    const answer = await fetch(path, { headers, signal, cache: "no-store" });
    if (answer.status === 401 || answer.status === 403) throw new Locked();
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    return answer;
  }

  sleep(ms) {
    return new Promise((resolve) => {
      this.wake = resolve;
      if (ms < Infinity) setTimeout(resolve, ms);
    });
  }
}
