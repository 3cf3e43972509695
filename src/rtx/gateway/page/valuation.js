// Profit between two answers of the server: its own figure, moved by the price since.

const ACCOUNT_CURRENCY = "USD";

/**
 * Unrealized profit of a position at the market's price of this moment.
 *
 * The server's figure is the anchor, so what is shown is exact at each refresh, and stays as it is
 * where a price, a spec or a conversion is unknown.
 */
export function profit(position, market) {
  const quote = market.get(position.symbol);
  if (!quote?.spec || !Number.isFinite(quote.bid)) return position.unrealized_pnl;
  const rate = conversion(quote.spec.quote, market);
  if (rate === null) return position.unrealized_pnl;
  const way = position.side === "BUY" ? 1 : -1;
  const moved = closing(position, quote) - position.current_price;
  return position.unrealized_pnl + way * moved * position.volume * quote.spec.contract_size * rate;
}

/** The price that would close a position: the bid for a buy, the ask for a sell. */
export function closing(position, quote) {
  return position.side === "BUY" ? quote.bid : quote.ask;
}

function conversion(currency, market) {
  if (currency === ACCOUNT_CURRENCY) return 1;
  const direct = market.get(currency + ACCOUNT_CURRENCY);
  if (direct) return direct.mid;
  const inverse = market.get(ACCOUNT_CURRENCY + currency);
  return inverse ? 1 / inverse.mid : null;
}
