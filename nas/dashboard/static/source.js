// Where the page has its data from: the server that it was loaded from, or the page itself when it is a saved copy.
import { unpack } from "./store.js";

const RETRY_SECONDS = 4;

export async function openSource() {
  const embedded = document.getElementById("embedded");
  return embedded ? openEmbedded(embedded) : openServer(location.pathname.split("/")[2]);
}

async function openEmbedded(node) {
  const content = await unzip(node.textContent).then((bytes) => bytes.arrayBuffer());
  const rest = JSON.parse(await (await unzip(document.getElementById("embedded-rest").textContent)).text());
  const chunks = new Map();
  return {
    saved: rest.saved,
    base: null,
    snapshot: async () => unpack(content),
    // trials are packed by the hundred, so that a copy opens without unpacking them all
    trial: async (number) => {
      const chunk = rest.chunks[number];
      if (chunk === undefined) return rest.trials[number];
      if (!chunks.has(chunk)) chunks.set(chunk, unzip(document.getElementById(`trials-${chunk}`).textContent).then((answer) => answer.json()));
      return (await chunks.get(chunk))[number];
    },
    health: async () => rest.health,
    findings: () => unpackEmbedded("embedded-findings"),
    architectures: () => unpackEmbedded("embedded-architectures"),
    explained: async () => rest.explained,
    note: null,
    form: null,
    whatIf: null,
    follow: () => {},
  };
}

async function unpackEmbedded(name) {
  return unpack(await (await unzip(document.getElementById(name).textContent)).arrayBuffer());
}

export async function unzip(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

function openServer(name) {
  const base = `/api/run/${name}`;
  return {
    saved: null,
    base: `/run/${name}`,
    snapshot: async (since = "") => unpack(await (await ask(`${base}?since=${encodeURIComponent(since)}`)).arrayBuffer()),
    trial: (number) => getJson(`${base}/trial/${Number(number)}`),
    health: () => getJson(`${base}/health`),
    findings: async () => unpack(await (await ask(`${base}/findings`)).arrayBuffer()),
    architectures: async () => unpack(await (await ask(`${base}/architectures`)).arrayBuffer()),
    explained: () => getJson(`${base}/explained`),
    form: (number) => getJson(`${base}/trial/${Number(number)}/what-if`),
    whatIf: (params) => getJson(`${base}/what-if?params=${encodeURIComponent(JSON.stringify(params))}`),
    note: (number, note) => putJson(`${base}/trial/${Number(number)}/note`, note),
    follow: (version, onNews, onConnection) => follow(base, version, onNews, onConnection),
  };
}

async function putJson(address, content) {
  const body = JSON.stringify(content);
  // kept alive, so that what was written just before the page is left arrives
  await ask(address, { method: "PUT", body, keepalive: true, headers: { "content-type": "application/json" } });
}

async function ask(address, options) {
  const answer = await fetch(address, options);
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${await answer.text()}`);
  return answer;
}

export async function getJson(address) {
  return (await ask(address)).json();
}

// Calls onNews with every change after `version`, which gives the version to go on from, and onConnection(open, seconds
// until the next try). It tries again by itself.
function follow(base, version, onNews, onConnection) {
  let seen = version;
  const stream = new EventSource(`${base}/events?since=${encodeURIComponent(version)}`);
  const again = (seconds) => {
    stream.close();
    setTimeout(() => follow(base, seen, onNews, onConnection), 1000 * seconds);
  };
  stream.onopen = () => onConnection(true);
  stream.onmessage = async (event) => {
    const news = JSON.parse(event.data);
    if (!news.reset && !news.fetch) {
      seen = news.version;
      onNews(news);
      return;
    }
    stream.close();
    try {
      seen = await onNews(news, seen);
      again(0);
    } catch {
      onConnection(false, RETRY_SECONDS);
      again(RETRY_SECONDS);
    }
  };
  stream.onerror = () => {
    onConnection(false, RETRY_SECONDS);
    again(RETRY_SECONDS);
  };
}
