// Shows the contract in Swagger UI. Loaded by /docs with the attribute data-api-keys, "yes" if callers need a key.
"use strict";

const keysAreAskedFor = document.currentScript.dataset.apiKeys === "yes";

// The contract says that a deployment may require a key. This page knows whether this one does: a lock is shown
// on the operations that need a key, and on none if none is needed.
const locks = {
  statePlugins: {
    spec: {
      wrapActions: {
        updateJsonSpec: (updateJsonSpec) => (contract) => {
          const shown = { ...contract, security: keysAreAskedFor ? [{ apiKey: [] }] : [] };
          if (!keysAreAskedFor) {
            shown.components = { ...shown.components };
            delete shown.components.securitySchemes;
          }
          return updateJsonSpec(shown);
        },
      },
    },
  },
};

// A stream has no end, and the viewer shows a response only at its end. Its description has a curl instead.
const streams = {
  statePlugins: {
    spec: {
      wrapSelectors: {
        allowTryItOutFor: (allowed, system) => (state, path, method) => {
          const content = system.specSelectors.specJson().getIn(["paths", path, method, "responses", "200", "content"]);
          return allowed(state, path, method) && !(content && content.has("text/event-stream"));
        },
      },
    },
  },
};

// The viewer's own filter compares tags only. This one searches each operation, for all words of the phrase.
const search = {
  fn: {
    opsFilter: (groups, phrase) => {
      const words = phrase.toLowerCase().split(/\s+/);
      const text = (tag, { path, method, operation }) =>
        [tag, path, method, operation.operationId, operation.summary, operation.description].join(" ").toLowerCase();
      return groups
        .map((group, tag) =>
          group.update("operations", (operations) =>
            operations.filter((operation) => words.every((word) => text(tag, operation.toJS()).includes(word))),
          ),
        )
        .filter((group) => group.get("operations").size > 0);
    },
  },
};

const searchField = {
  wrapComponents: {
    FilterContainer: (Original, { React }) => (properties) =>
      React.createElement("div", { role: "search" }, React.createElement(Original, properties)),
  },
};

SwaggerUIBundle({
  url: "/openapi.yaml",
  dom_id: "#viewer",
  deepLinking: true,
  validatorUrl: null,
  filter: true,
  plugins: [locks, streams, search, searchField],
  onComplete: () => {
    const field = document.querySelector(".operation-filter-input");
    field.placeholder = "Search operations";
    field.setAttribute("aria-label", "Search operations");
  },
});
