// A Restate service whose handler does so many durable steps that do nothing, one after the other.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new Promise((yes, no) => { resolve = yes; reject = no; });
  return { promise, resolve, reject };
};
const restate = await import("@restatedev/restate-sdk");
const chain = restate.service({
  name: "chain",
  handlers: {
    run: async (ctx, steps) => {
      for (let at = 0; at < steps; at++) await ctx.run(`s${at}`, () => null);
      return steps;
    },
  },
});
await restate.endpoint().bind(chain).listen(19080);
console.error("handler: ready");
