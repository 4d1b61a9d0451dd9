// What the playground does in the browser: copy and save tweets, fill in a prompt, send the id of a picked token, read
// finished tweets to screen readers, and give the frame of Look inside the height of its content.

const playground = {
  // ---- copy and save -------------------------------------------------------------------------------------------------

  // All tweets of this visit, the newest first.
  samples() {
    return [...document.querySelectorAll("[data-samples]")].flatMap((box) => JSON.parse(box.dataset.samples));
  },

  text() {
    return playground.samples().map(({ text }) => text + "\n").join("");
  },

  async copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // the clipboard is not allowed over plain HTTP from another machine
      const box = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(box);
      box.select();
      document.execCommand("copy");
      box.remove();
    }
    const label = button.textContent;
    if (label === "Copied") return;
    button.textContent = "Copied";
    playground.say("Copied");
    setTimeout(() => { button.textContent = label; }, 1200);
  },

  save(name, type, content) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  },

  tools: {
    copyAll: (button) => playground.copy(playground.text(), button),
    saveText: () => playground.save("tweets.txt", "text/plain", playground.text()),
    saveJson: () => playground.save(
      "tweets.json", "application/json", JSON.stringify({ samples: playground.samples() }, null, 2) + "\n"
    ),
  },

  // ---- prompts and tokens --------------------------------------------------------------------------------------------

  fill(prompt) {
    const box = document.querySelector("#prompt textarea");
    box.value = prompt;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    box.focus();
  },

  clicked({ target }) {
    const button = target.closest("[data-copy], [data-do], [data-prompt]");
    if (!button) return;
    const { copy, do: tool, prompt } = button.dataset;
    if (copy !== undefined) playground.copy(copy, button);
    else if (tool) playground.tools[tool](button);
    else playground.fill(prompt);
  },

  picking(element, trigger) {
    element.addEventListener("click", ({ target }) => {
      const button = target.closest("[data-token]");
      if (button) trigger("click", { token: Number(button.dataset.token) });
    });
  },

  // ---- screen readers and small screens ------------------------------------------------------------------------------

  // A line that is heard and not seen.
  say(text) {
    const line = document.createElement("p");
    line.textContent = text;
    playground.heard.append(line);
    if (playground.heard.childElementCount > 50) playground.heard.firstChild.remove();
  },

  // Each finished tweet is said once, each message when it appears. Both are scrolled to if they are out of sight.
  watch(cards, message) {
    const said = new Set();
    let busy = false;
    playground.onChange(cards, () => {
      const writing = Boolean(cards.querySelector(".card.writing"));
      if (writing && !busy) {
        said.clear();
        playground.show(cards);
      }
      busy = writing;
      [...cards.querySelectorAll(".card")].forEach((card, place) => {
        const text = `${place}: ${playground.spoken(card)}`;
        if (card.classList.contains("writing") || said.has(text)) return;
        said.add(text);
        playground.say(playground.spoken(card));
      });
    });
    playground.onChange(message, () => {
      const line = message.querySelector(".notice");
      if (!line) return;
      playground.say(line.textContent);
      playground.show(message);
    });
  },

  onChange(element, act) {
    new MutationObserver(act).observe(element, { childList: true, subtree: true });
  },

  spoken(card) {
    const copied = card.querySelector(".copied");
    return card.querySelector(".text").textContent + (copied ? ` (${copied.textContent})` : "");
  },

  show(element) {
    const { top } = element.getBoundingClientRect();
    if (top >= 0 && top < 0.6 * innerHeight) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    element.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
  },

  // ---- the frame of Look inside --------------------------------------------------------------------------------------

  fit({ source, data }) {
    const frame = [...document.querySelectorAll("iframe.inside")].find(({ contentWindow }) => contentWindow === source);
    if (frame && Number.isFinite(data?.height)) frame.style.height = `${Math.ceil(data.height) + 2}px`;
  },

  begin() {
    playground.heard = Object.assign(document.createElement("div"), { className: "heard", role: "log" });
    playground.heard.setAttribute("aria-label", "finished tweets");
    document.body.append(playground.heard);
    document.addEventListener("click", playground.clicked);
    addEventListener("message", playground.fit);
  },
};

playground.begin(); // Gradio adds this script to a page that is there already
