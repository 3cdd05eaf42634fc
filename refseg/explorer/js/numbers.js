// Numbers from the text that wire.py makes of tensors, and numbers as text.

const unpacked = new WeakMap();

// What `make` gives for a packed tensor, computed once.
export function once(packed, make) {
  if (!unpacked.has(packed)) unpacked.set(packed, make(packed));
  return unpacked.get(packed);
}

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// What wire.pack packed: {shape, values}.
export function numbers(packed) {
  return once(packed, ({ shape, bits, log, low, high, data }) => {
    const raw = bytes(data);
    const steps = bits === 8 ? raw : new Uint16Array(raw.buffer);
    const top = 2 ** bits - 1;
    const scale = (high - low) / (log ? top - 1 : top);
    const table = Float32Array.from({ length: top + 1 }, (_, n) =>
      log ? (n === 0 ? 0 : Math.exp(low + (n - 1) * scale)) : low + n * scale,
    );
    return { shape, values: Float32Array.from(steps, (n) => table[n]) };
  });
}

// What wire.pack_mask packed: {h, w, values} with values 0 and 1.
export function maskOf(packed) {
  return once(packed, ({ shape: [h, w], data }) => {
    const raw = bytes(data);
    return { h, w, values: Uint8Array.from({ length: h * w }, (_, n) => (raw[n >> 3] >> (7 - (n & 7))) & 1) };
  });
}

export function extremes(values) {
  let [low, high, place] = [Infinity, -Infinity, 0];
  for (let n = 0; n < values.length; n++) {
    if (values[n] < low) low = values[n];
    if (values[n] > high) [high, place] = [values[n], n];
  }
  return { low, high, place };
}

export const clamp = (value, count) => Math.min(Math.max(value, 0), count - 1);

export function decimal(value) {
  if (!Number.isFinite(value)) return "not known";
  const size = Math.abs(value);
  if (size > 0 && size < 0.005) return value > 0 ? "<0.01" : ">−0.01";
  return value.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0).replace("-", "−");
}

export const percent = (value) => (value > 0 && value < 0.01 ? "<1 %" : `${Math.round(100 * value)} %`);
export const quoted = (text) => `“${text}”`;
// A map's values: multiples of an even share, shares, or plain numbers.
export const UNITS = { even: (value) => `${decimal(value)} × even`, share: percent, plain: decimal };
