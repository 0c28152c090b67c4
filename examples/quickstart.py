from nullspace import Sandbox

with Sandbox.create(template="base", timeout=300) as sandbox:
    print(sandbox.id)
    print(sandbox.commands.run("echo ready", shell=True).stdout)
