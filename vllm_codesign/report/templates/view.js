(function () {
  "use strict";
  // Verdict, charts and tables of a served capture: made by the server, in time, and made anew
  // when the reader asks for it, so that nothing moves under them.
  const place = document.getElementById("figures");
  const anew = document.getElementById("anew");
  const grown = document.getElementById("grown");

  async function load() {
    anew.disabled = true;
    place.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch("figures");
      const text = await answer.text();
      if (!answer.ok) throw new Error(text.split("\n")[0]);
      place.innerHTML = text;  // the server's own template, which escapes what comes from traces
      grown.textContent = "";
    } catch (error) {
      grown.textContent = "The figures cannot be had: " + error.message;
      anew.disabled = false;
    }
    place.setAttribute("aria-busy", "false");
    document.documentElement.dataset.figures = "yes";
  }

  anew.addEventListener("click", load);
  document.addEventListener("codesign-grown", (event) => {
    grown.textContent = event.detail.requests.toLocaleString("en-US") + " requests by now.";
    anew.disabled = false;
  });
  load();
})();
