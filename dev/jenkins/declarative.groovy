// Checks a Declarative Jenkinsfile without Jenkins, then runs it: `sh` for real, other steps printed.
//   java -cp groovy-all-2.4.21.jar groovy.ui.GroovyMain declarative.groovy Jenkinsfile... | Jenkinsfile --run [BRANCH]
// Groovy 2.4 is the language inside Jenkins. The tables below are written from knowledge of the Declarative syntax, not
// taken from Jenkins, and were never compared with its linter: a step missing from STEPS is refused until it is added.
// Beside the syntax it demands: a step that needs an agent has one; input holds none, has an end and says who may answer; what
// undoes a failure is in no stage's timeout, for Jenkins ends it a minute after that has run out.
// Playing is approximate: parallel stages run in turn, matrix is not played, input is taken as yes (PLAY_INPUT=abort: it is
// aborted), credentials are made up, options do nothing, conditions of `when` that are not in class When are taken as true.
// Every agent is the folder PLAY_WORKSPACE: `checkout` copies PLAY_SOURCE there, `deleteDir` empties it.
import org.codehaus.groovy.ast.expr.*
import org.codehaus.groovy.ast.stmt.*
import org.codehaus.groovy.ast.builder.AstBuilder
import org.codehaus.groovy.control.CompilePhase

class Rules {
    static final POST = ['always', 'changed', 'fixed', 'regression', 'aborted', 'failure', 'success', 'unstable',
                         'unsuccessful', 'cleanup']
    static final PIPELINE = ['agent', 'environment', 'options', 'parameters', 'triggers', 'tools', 'libraries', 'stages', 'post']
    static final STAGE = ['agent', 'environment', 'options', 'tools', 'input', 'when', 'failFast', 'steps', 'stages',
                          'parallel', 'matrix', 'post']
    static final OPTIONS = ['timeout', 'timestamps', 'disableConcurrentBuilds', 'buildDiscarder', 'skipDefaultCheckout',
                            'parallelsAlwaysFailFast', 'retry', 'preserveStashes', 'ansiColor', 'quietPeriod',
                            'disableResume', 'skipStagesAfterUnstable', 'checkoutToSubdirectory', 'overrideIndexTriggers', 'lock']
    static final WHEN = ['branch', 'buildingTag', 'changelog', 'changeset', 'changeRequest', 'environment', 'equals',
                         'expression', 'tag', 'not', 'allOf', 'anyOf', 'triggeredBy', 'beforeAgent', 'beforeInput', 'beforeOptions']
    static final STEPS = ['sh', 'echo', 'checkout', 'dir', 'withCredentials', 'withEnv', 'script', 'archiveArtifacts', 'junit',
                          'stash', 'unstash', 'retry', 'timeout', 'error', 'unstable', 'catchError', 'warnError', 'sleep',
                          'input', 'lock', 'milestone', 'build', 'cleanWs', 'deleteDir', 'container', 'publishHTML',
                          'recordIssues', 'waitUntil', 'writeFile', 'readFile', 'fileExists', 'ansiColor', 'timestamps', 'tool', 'git']
    /** What runs on the controller as well. */
    static final ANYWHERE = ['echo', 'error', 'unstable', 'catchError', 'warnError', 'sleep', 'input', 'milestone', 'build',
                             'timeout', 'retry', 'withEnv', 'script', 'lock', 'timestamps', 'waitUntil']
    static final AGENT = ['any', 'none', 'label', 'node', 'docker', 'dockerfile', 'kubernetes']
}

class Checker {
    List<String> errors = []
    /** Whether there is an agent where we are; whether a timeout is around us. */
    boolean agent = false, ends = false
    /** Whether a stage around us, or ours, has a timeout. */
    boolean limited = false

    def fail(node, String text) { errors << "line ${node.lineNumber}: ${text}".toString() }

    static List<Statement> body(ClosureExpression c) { c.code instanceof BlockStatement ? c.code.statements : [c.code] }

    static MethodCallExpression callIn(Statement s) {
        s instanceof ExpressionStatement && s.expression instanceof MethodCallExpression &&
            s.expression.implicitThis ? s.expression : null
    }

    static ClosureExpression closure(MethodCallExpression m) {
        m.arguments instanceof TupleExpression && m.arguments.expressions &&
            m.arguments.expressions.last() instanceof ClosureExpression ? m.arguments.expressions.last() : null
    }

    /** Every statement of `c` must be a call named in `allowed`; returns them by name. */
    Map<String, List<MethodCallExpression>> section(ClosureExpression c, String where, List<String> allowed, Set repeat = []) {
        def found = [:].withDefault { [] }
        body(c).each { s ->
            def m = callIn(s)
            if (!m) return fail(s, "${where}: expected one of ${allowed}, found a bare statement (only script {} may hold code)")
            def name = m.methodAsString
            if (!(name in allowed)) return fail(m, "${where}: '${name}' is not one of ${allowed}")
            if (found[name] && !(name in repeat)) fail(m, "${where}: '${name}' given twice")
            found[name] << m
        }
        found
    }

    def pipeline(MethodCallExpression m) {
        def c = closure(m)
        if (!c) return fail(m, 'pipeline needs a block')
        def at = section(c, 'pipeline', Rules.PIPELINE)
        ['agent', 'stages'].each { if (!at[it]) fail(m, "pipeline: missing section '${it}'") }
        agent = held(at)
        common(at, 'pipeline')
        at.stages.each { stages(it, 'stages') }
    }

    /** `agent none` gives none, no agent at all the one around. */
    boolean held(Map at) {
        def a = at.agent ? at.agent[0] : null
        a == null ? agent : closure(a) != null || a.arguments.expressions*.text.first() != 'none'
    }

    def common(Map at, String where) {
        at.agent.each { a ->
            def c = closure(a)
            if (c) section(c, "${where}: agent", Rules.AGENT)
            else if (!(a.arguments.expressions*.text.first() in ['any', 'none'])) fail(a, "${where}: agent takes any, none or a block")
        }
        at.options.each { if (closure(it)) section(closure(it), "${where}: options", Rules.OPTIONS) }
        at.environment.each { e ->
            body(closure(e)).each { s ->
                if (!(s instanceof ExpressionStatement && s.expression instanceof BinaryExpression && s.expression.operation.text == '='))
                    fail(s, "${where}: environment holds only NAME = value")
            }
        }
        at.post.each { p ->
            def conditions = section(closure(p), "${where}: post", Rules.POST)
            if (!conditions) fail(p, "${where}: post is empty")
            ['unsuccessful', 'failure', 'aborted'].each { if (limited && conditions[it]) fail(p, "${where}: post ${it} within a timeout") }
            conditions.each { name, list -> list.each { steps(it, "${where}: post ${name}") } }
        }
    }

    def stages(MethodCallExpression m, String where) {
        def at = section(closure(m), where, ['stage'], ['stage'] as Set)
        if (!at.stage) fail(m, "${where}: no stage")
        def names = at.stage.collect { it.arguments.expressions.first().text }
        names.findAll { n -> names.count(n) > 1 }.unique().each { fail(m, "${where}: two stages named '${it}'") }
        at.stage.each { stage(it) }
    }

    def stage(MethodCallExpression m) {
        def name = "stage '${m.arguments.expressions.first().text}'"
        if (!closure(m)) return fail(m, "${name} needs a block")
        def at = section(closure(m), name, Rules.STAGE)
        def work = ['steps', 'stages', 'parallel', 'matrix'].findAll { at[it] }
        if (work.size() != 1) fail(m, "${name}: exactly one of steps, stages, parallel, matrix; found ${work}")
        def around = agent, limitedAround = limited
        agent = held(at)
        limited = limited || at.options.any { closure(it) && body(closure(it)).any { callIn(it)?.methodAsString == 'timeout' } }
        common(at, name)
        at.when.each { section(closure(it), "${name}: when", Rules.WHEN) }
        at.steps.each { steps(it, name) }
        (at.stages + at.parallel).each { stages(it, name) }
        agent = around
        limited = limitedAround
    }

    def input(MethodCallExpression m, String where) {
        def given = m.arguments.expressions.findAll { it instanceof MapExpression }*.mapEntryExpressions.flatten()*.keyExpression*.text
        if (agent) fail(m, "${where}: input holds an agent while it waits")
        if (!ends) fail(m, "${where}: input without a timeout waits for ever")
        if (!('submitter' in given)) fail(m, "${where}: input without a submitter is answered by anybody")
    }

    def steps(MethodCallExpression m, String where) {
        def list = body(closure(m)).findAll { !(it instanceof ReturnStatement) }
        if (!list) fail(m, "${where}: no steps")
        list.each { s ->
            def step = callIn(s)
            if (!step) return fail(s, "${where}: expected a step (code goes into script {})")
            if (!(step.methodAsString in Rules.STEPS)) return fail(step, "${where}: unknown step '${step.methodAsString}'")
            if (!agent && !(step.methodAsString in Rules.ANYWHERE)) return fail(step, "${where}: '${step.methodAsString}' without an agent")
            if (step.methodAsString == 'input') input(step, where)
            def around = ends
            ends = ends || step.methodAsString == 'timeout'
            if (step.methodAsString != 'script' && closure(step)) steps(step, "${where}: ${step.methodAsString}")
            ends = around
        }
    }
}

/** Plays the pipeline: sections become calls, `sh` becomes a process, every other step is printed. */
class Player {
    static Map environment = new LinkedHashMap(System.getenv())
    static boolean failed = false, aborted = false
    Map stashes = [:]
    def workspace = System.getenv('PLAY_WORKSPACE')

    def getEnv() { environment }
    def getParams() { environment }
    def currentBuild = [currentResult: 'SUCCESS', result: null]
    def scm = 'scm', any = 'any', none = 'none'

    void block(Closure c) { c.delegate = this; c.resolveStrategy = Closure.DELEGATE_FIRST; c() }
    def propertyMissing(String name, value) { environment[name] = value.toString() }
    def propertyMissing(String name) { environment.containsKey(name) ? environment[name] : name }

    def pipeline(Closure c) { outcome(c) }
    def agent(Object... a) { }
    def environment(Closure c) { block(c) }
    def options(Closure c) { }
    def parameters(Closure c) { c.delegate = new Parameters(); c.resolveStrategy = Closure.DELEGATE_ONLY; c() }
    def triggers(Closure c) { }
    def tools(Closure c) { }
    def input(Object... a) {
        if (skip) return
        if (Player.environment.PLAY_INPUT == 'abort') {
            aborted = true
            throw new StepFailed('input was aborted')
        }
        println '  (input: taken as yes)'
    }
    def failFast(boolean b) { }
    def stages(Closure c) { if (!skip) block(c) }
    def parallel(Closure c) { if (!skip) block(c) }
    def steps(Closure c) {
        if (failed || skip) return
        try { block(c) } catch (StepFailed e) { failed = true; println "  FAILED: ${e.message}" }
    }
    def script(Closure c) { block(c) }
    boolean skip = false
    def when(Closure c) { skip = !When.of(c).every() }
    def stage(String name, Closure c) {
        if (failed) return println("[stage ${name}] skipped: an earlier stage failed")
        println "[stage ${name}]"
        skip = false
        outcome(c)
        if (skip) println '  (when: not this branch)'
        skip = false
    }
    /** Runs the block, keeping its post {} for the end, as Jenkins does. */
    void outcome(Closure c) {
        def saved = after
        after = null
        block(c)
        currentBuild.currentResult = aborted ? 'ABORTED' : failed ? 'FAILURE' : 'SUCCESS'
        if (after && !skip) {
            def now = aborted ? 'aborted' : failed ? 'failure' : 'success'
            def p = new Post(player: this, conditions: ['always', now, 'cleanup'] + (failed ? ['unsuccessful'] : []))
            after.delegate = p
            after.resolveStrategy = Closure.DELEGATE_ONLY
            after()
        }
        after = saved
    }
    Closure after
    def post(Closure c) { after = c }

    def echo(message) { println "  ${message}" }
    def error(message) { throw new StepFailed(message.toString()) }
    def sh(String script) { sh(script: script) }
    def sh(Map args) {
        println "  \$ ${args.script.trim().readLines().join('\n    ')}"
        def b = new ProcessBuilder('bash', '-ec', args.script.toString()).redirectErrorStream(!args.returnStdout)
        if (workspace) b.directory(new File(workspace))
        b.environment().putAll(Player.environment.collectEntries { k, v -> [k, v.toString()] })
        def p = b.start()
        p.outputStream.close()
        def out = p.inputStream.text
        int rc = p.waitFor()
        if (!args.returnStdout) out.eachLine { println "    ${it}" }
        if (args.returnStatus) return rc
        if (rc) throw new StepFailed("sh exited ${rc}")
        args.returnStdout ? out : null
    }
    void run(String... command) {
        def p = new ProcessBuilder(command).inheritIO().start()
        if (p.waitFor()) throw new StepFailed("${command} failed")
    }
    def checkout(Object what) {
        println '  (checkout)'
        if (workspace) run('cp', '-a', "${Player.environment.PLAY_SOURCE}/.".toString(), workspace)
    }
    def deleteDir() {
        println '  (deleteDir)'
        if (workspace) run('find', workspace, '-mindepth', '1', '-delete')
    }
    def stash(Map a) {
        println "  (stash ${a})"
        if (!workspace) return
        def file = new File(workspace, a.includes)
        if (!file.file) throw new StepFailed("nothing to stash: ${a.includes}")
        stashes[a.name] = [a.includes, file.bytes]
    }
    def unstash(String name) {
        println "  (unstash ${name})"
        if (!workspace) return
        if (!stashes[name]) throw new StepFailed("no stash ${name}")
        def file = new File(workspace, stashes[name][0])
        file.parentFile.mkdirs()
        file.bytes = stashes[name][1]
    }
    def withEnv(List list, Closure c) { scoped(list.collectEntries { it.toString().split('=', 2) as List }, c) }
    def withCredentials(List list, Closure c) { scoped(list.collectEntries { it }, c) }
    def string(Map a) { [(a.variable): "secret-${a.credentialsId}"] }
    def file(Map a) { [(a.variable): "/nowhere/${a.credentialsId}".toString()] }
    def usernamePassword(Map a) { [(a.usernameVariable): 'user', (a.passwordVariable): "secret-${a.credentialsId}"] }
    def credentials(String id) { "secret-${id}" }
    void scoped(Map more, Closure c) {
        def old = new LinkedHashMap(Player.environment)
        Player.environment.putAll(more)
        try { block(c) } finally { Player.environment = old }
    }
    Script jenkinsfile
    def methodMissing(String name, args) {
        def own = org.codehaus.groovy.runtime.InvokerHelper.getMetaClass(jenkinsfile.getClass())
        if (own.respondsTo(jenkinsfile, name)) return own.invokeMethod(jenkinsfile, name, args)
        def c = args ? args[-1] : null
        def rest = (c instanceof Closure ? args[0..<-1] : args as List)
        println "  (${name}${rest ? ' ' + rest.join(' ') : ''})"
        if (c instanceof Closure) block(c)
    }
}
class Parameters {
    def methodMissing(String name, args) {
        def value = args[0].containsKey('choices') ? args[0].choices[0] : args[0].defaultValue
        Player.environment.putIfAbsent(args[0].name, "${value == null ? '' : value}".toString())
    }
}
class StepFailed extends RuntimeException { StepFailed(String m) { super(m) } }
class Post {
    Player player
    List conditions
    def methodMissing(String name, args) {
        if (!(name in conditions)) return
        println "[post ${name}]"
        try { player.block(args[0]) } catch (StepFailed e) { Player.failed = true; println "  FAILED: ${e.message}" }
    }
}
class When {
    List met = []
    static List of(Closure c) { def w = new When(); c.delegate = w; c.resolveStrategy = Closure.DELEGATE_ONLY; c(); w.met }
    void branch(String pattern) { met << ((Player.environment.BRANCH_NAME ?: '') ==~ pattern.replace('*', '.*')) }
    void buildingTag() { met << (Player.environment.TAG_NAME != null) }
    void environment(Map a) { met << (Player.environment[a.name] == a.value) }
    def getParams() { Player.environment }
    def getEnv() { Player.environment }
    void beforeAgent(boolean b) { }
    void expression(Closure c) { met << (c() as boolean) }
    void not(Closure c) { met << !of(c).every() }
    void allOf(Closure c) { met << of(c).every() }
    void anyOf(Closure c) { met << of(c).any() }
    def methodMissing(String name, args) { println "  (when ${name}: taken as true)"; met << true }
}

/** What is wrong with the file; says so. */
boolean wrong(String name) {
    def checker = new Checker()
    try {
        def ast = new AstBuilder().buildFromString(CompilePhase.CONVERSION, false, new File(name).text)
        def top = ast[0].statements.collect { Checker.callIn(it) }.findAll { it?.methodAsString == 'pipeline' }
        if (top.size() != 1) checker.errors << "exactly one pipeline {} block, found ${top.size()}".toString()
        top.each { checker.pipeline(it) }
    } catch (org.codehaus.groovy.control.MultipleCompilationErrorsException e) {
        checker.errors << e.message
    }
    checker.errors.each { System.err.println "${name}: ${it}" }
    if (!checker.errors) println "${name}: valid Declarative pipeline"
    checker.errors
}
if (args.takeWhile { it != '--run' }.count { wrong(it) }) System.exit(1)
if ('--run' in args) {
    if (args.length > 2) Player.environment.BRANCH_NAME = args[2]
    def config = new org.codehaus.groovy.control.CompilerConfiguration(scriptBaseClass: DelegatingScript.name)
    def script = (DelegatingScript) new GroovyShell(this.class.classLoader, new Binding(), config).parse(new File(args[0]).text, 'Jenkinsfile')
    script.setDelegate(new Player(jenkinsfile: script))
    script.run()
    System.exit(Player.failed ? 1 : 0)
}
