// How numbers and times are written. One locale, so that screenshots and tests agree.

const LOCALE = "en-US";
const formatters = new Map();

function fixed(digits) {
  let formatter = formatters.get(digits);
  if (!formatter) {
    formatter = new Intl.NumberFormat(LOCALE, {
      minimumFractionDigits: digits,
      maximumFractionDigits: digits,
    });
    formatters.set(digits, formatter);
  }
  return formatter;
}

export function price(value, digits) {
  return fixed(digits).format(value);
}

/** Money in account currency, two decimals; the sign is always shown when `signed`. */
export function money(value, signed = false) {
  const text = fixed(2).format(Math.abs(value));
  if (Number(value.toFixed(2)) < 0) return `−${text}`;
  return signed && Number(value.toFixed(2)) > 0 ? `+${text}` : text;
}

export function percent(value, digits = 2) {
  const text = fixed(digits).format(Math.abs(value));
  const rounded = Number(value.toFixed(digits));
  return `${rounded < 0 ? "−" : rounded > 0 ? "+" : ""}${text} %`;
}

export function volume(value) {
  return value.toLocaleString(LOCALE, { minimumFractionDigits: 2, maximumFractionDigits: 8 });
}

/**
 * A price as [head, pips, tail]: the two digits a trader reads first, and what stands around them.
 * With 5, 3 or 1 decimals the last one is a tenth of a pip.
 */
export function splitPrice(value, digits) {
  const text = price(value, digits);
  let end = text.length - (digits % 2);
  if (text[end - 1] === ".") end -= 1;
  let start = end;
  for (let found = 0; found < 2 && start > 0; ) {
    start -= 1;
    if (text[start] >= "0" && text[start] <= "9") found += 1;
  }
  return [text.slice(0, start), text.slice(start, end), text.slice(end)];
}

/** Spread as [number, unit]: pips where the last digit is a tenth of one, else points. */
export function spread(bid, ask, digits) {
  const points = (ask - bid) * 10 ** digits;
  if (digits === 5 || digits === 3) return [fixed(1).format(points / 10), "pips"];
  return [fixed(0).format(points), "pts"];
}

/** Decimals that a number shows, at most 8; the digits of a symbol until its spec is known. */
export function decimals(value) {
  const text = String(value);
  if (text.includes("e")) return 8;
  return Math.min(8, text.split(".")[1]?.length ?? 0);
}

const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
const shortClock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", hourCycle: "h23",
});

export function time(ms) {
  return clock.format(ms);
}

export function shortTime(ms) {
  return shortClock.format(ms);
}

export function seconds(value) {
  return value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
}

export function milliseconds(value) {
  if (value < 1) return "< 1 ms";
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}
