// Preloaded into a client that has no setting for KIE's address: its requests to KIE go to the address in $KIE instead.
const hosts = ["https://api.kie.ai", "https://kieai.redpandaai.co"];
const original = globalThis.fetch;

globalThis.fetch = (input, init) => {
  const address = typeof input === "string" ? input : String(input.url ?? input);
  const host = hosts.find((one) => address.startsWith(`${one}/`));
  return original(host ? process.env.KIE + address.slice(host.length) : input, init);
};
