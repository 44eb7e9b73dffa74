// Where the page has its data from: the server that it was loaded from, or the page itself when it is a saved copy.

export async function openSource() {
  const embedded = document.getElementById("embedded");
  return embedded ? openEmbedded(embedded.textContent) : openServer(location.pathname.split("/")[2]);
}

async function openEmbedded(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const content = await new Response(stream).json();
  return {
    saved: content.saved,
    snapshot: async () => content,
    trial: async (number) => content.trials[number],
    follow: () => {},
  };
}

function openServer(name) {
  const base = `/api/run/${name}`;
  return {
    saved: null,
    snapshot: () => getJson(base),
    trial: (number) => getJson(`${base}/trial/${Number(number)}`),
    follow: (version, onNews, onConnection) => follow(base, version, onNews, onConnection),
  };
}

export async function getJson(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

// calls onNews with every change after `version`, and onConnection with whether the server answers; the browser
// connects again by itself and then says which version it saw last
function follow(base, version, onNews, onConnection) {
  let seen = version;
  const stream = new EventSource(`${base}/events?since=${encodeURIComponent(version)}`);
  stream.onopen = () => onConnection(true);
  stream.onmessage = (event) => {
    const news = JSON.parse(event.data);
    seen = news.version;
    onNews(news);
  };
  stream.onerror = () => {
    onConnection(false);
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => follow(base, seen, onNews, onConnection), 3000);
  };
}
